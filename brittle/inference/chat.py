"""The interactive session: prompts from a terminal, answers as they come, commands that start with
a slash.
"""

import contextlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from brittle.base.errors import UserError
from brittle.base.files import replace_text
from brittle.inference import show
from brittle.inference.loaded import Loaded, labels
from brittle.inference.prompts import check_prompt

HELP = """\
/model A [B]   ask another model, or two side by side
/temp T        temperature; 0 is greedy
/save FILE     write this session's prompts and answers as JSON lines
/history       what was asked       /clear   forget the conversation (chat models remember it)
/help          this                 /quit    end, as does Ctrl-D
Several lines: end a line with \\, or start and end with \"\"\". Ctrl-C stops an answer."""


class Session:
    """A session with one model, or two side by side; `read(prompt)` gives a line and raises
    EOFError at the end.
    """

    def __init__(self, models, sampling, console, read=input):
        """`models` are (path, Setup) pairs; each is loaded when it is first asked, and kept."""
        self.models, self.sampling, self.console, self.read = models, sampling, console, read
        self.loaded, self.asked = {}, []

    def run(self):
        """Read and answer until the end. Mistakes take one line, and the session goes on."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (arrow keys and the history of lines, where the system has it)
        self.console.print("Ask, or /help. Ctrl-C stops an answer, Ctrl-D ends.", style="dim")
        self.get(self.models)
        while True:
            try:
                text = self.message()
                if text.startswith("/"):
                    if self.command(*text[1:].split(maxsplit=1)):
                        return
                elif text.strip():
                    self.ask(text)
            except EOFError:
                self.console.print()
                return
            except KeyboardInterrupt:
                self.console.print()
            except UserError as error:
                self.console.print(
                    f"error: {' '.join(str(error).split())}",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )

    def message(self):
        """One message: a line; lines that end in a backslash and the next; or what stands between
        two lines of \"\"\".
        """
        line = self.read("> ")
        if line.strip().startswith('"""'):
            lines, line = [], line.strip()[3:]
            while not line.rstrip().endswith('"""'):
                lines.append(line)
                line = self.read(". ")
            return "\n".join([*lines, line.rstrip()[:-3]]).strip("\n")
        lines = []
        while line.endswith("\\"):
            lines.append(line[:-1])
            line = self.read(". ")
        return "\n".join([*lines, line])

    def command(self, name="help", rest=""):
        """Do what /name says. True ends the session."""
        if name in ("quit", "exit", "q"):
            return True
        if name == "model":
            self.change(rest.split())
        elif name == "temp":
            self.sampling = replace(self.sampling, temperature=temperature(rest))
            self.say(
                f"temperature {self.sampling.temperature:g}"
                + (" (greedy)" * (self.sampling.temperature == 0))
            )
        elif name == "save":
            self.save(rest.strip())
        elif name == "history":
            for number, entry in enumerate(self.asked, 1):
                self.say(f"{number}. {entry['prompt']}")
        elif name == "clear":
            self.asked = [{**entry, "cleared": True} for entry in self.asked]
            self.say("the conversation starts anew")
        elif name == "help":
            self.say(HELP)
        else:
            raise UserError(f"/{name}: no such command. /help lists them.")
        return False

    def say(self, text):
        self.console.print(show.visible(text), markup=False, highlight=False)

    def get(self, models):
        """The Loaded of each of `models`; those that are no longer asked are let go first."""
        self.loaded = {key: value for key, value in self.loaded.items() if key in models}
        for key in models:
            if key not in self.loaded:
                self.loaded[key] = Loaded(*key)
        return [self.loaded[key] for key in models]

    def change(self, names):
        if not 1 <= len(names) <= 2:
            raise UserError("/model takes one model, or two to see side by side: /model A [B].")
        setups = [self.models[0][1].plain()] * len(names)
        old, self.models = self.models, list(zip(names, setups, strict=True))
        try:
            self.get(self.models)
            self.say(" and ".join(labels(self.models)))
        except BaseException:  # the model that was there stays
            self.models = old
            raise

    def before(self, loaded):
        """The conversation so far as messages, for a model that chats; others read each prompt
        alone.
        """
        if not loaded.chats:
            return []
        turns = [e for e in self.asked if loaded.key in e["answers"] and not e.get("cleared")]
        return [
            message
            for e in turns
            for message in (
                {"role": "user", "content": e["prompt"]},
                {"role": "assistant", "content": e["answers"][loaded.key]},
            )
        ]

    def ask(self, prompt):
        check_prompt(prompt)
        loaded, answers = self.get(self.models), {}
        if len(loaded) == 1:
            (one,) = loaded
            try:
                answers[one.key] = show.typed(
                    one, one.stream(prompt, self.sampling, self.before(one)), self.console.file
                )
            except KeyboardInterrupt as stopped:
                answers[one.key] = stopped.args[0] if stopped.args else ""
                self.say("(stopped)")
        else:
            sides = [
                (name, lambda one=one: one)
                for name, one in zip(labels(self.models), loaded, strict=True)
            ]
            try:
                texts = show.side_by_side(
                    sides, self.sampling, prompt, self.console, before=self.before
                )
            except KeyboardInterrupt as stopped:
                texts = stopped.args[0] if stopped.args else [""] * len(loaded)
            answers = dict(zip((one.key for one in loaded), texts, strict=True))
        self.asked.append({"prompt": prompt, "answers": answers, "sampling": asdict(self.sampling)})

    def save(self, name):
        """Write the session to a new file: one JSON object a prompt."""
        if not name:
            raise UserError("/save FILE: say where to.")
        path = Path(name).expanduser()
        if path.exists():
            raise UserError(f"{name} is there already. Give another name.")
        keys = list(dict.fromkeys(key for entry in self.asked for key in entry["answers"]))
        names = dict(zip(keys, labels(keys), strict=True))
        rows = [
            {**e, "answers": {names[key]: text for key, text in e["answers"].items()}}
            for e in self.asked
        ]
        rows = [{k: v for k, v in row.items() if k != "cleared"} for row in rows]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        except (OSError, ValueError) as error:
            raise UserError(f"{name} cannot be written: {error}") from None
        self.say(f"{len(rows)} answers -> {path}")


def temperature(text):
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise UserError(f"temperature {text or 'of nothing'}: a number from 0 (greedy) to 100.")
    return value
