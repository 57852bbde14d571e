"""The notes of a run: nothing was unlearned, collapsed, and what to change. Both compare with
before.
"""

import math
from types import SimpleNamespace

import pytest
import torch

from brittle.models.load import load_model, load_tokenizer
from brittle.unlearning import collapse, effect

SETTINGS = SimpleNamespace(lr=1e-5, steps=6)


def test_noise_is_the_half_width_before():
    items = [{"entity": str(number)} for number in range(100)]
    noise = effect.noise_of([1, 0] * 50, items, [5.0, 6.0, 7.0], [0, 1, 2])
    assert noise.accuracy == pytest.approx(0.096, abs=0.002)  # Wilson, 50 of 100
    assert noise.nll == pytest.approx(4.303 * 1 / math.sqrt(3), abs=1e-3)  # Student, 2 degrees
    one_entity = effect.noise_of(
        [1, 1, 0, 0] * 25, [{"entity": str(n // 4)} for n in range(100)], [], []
    )
    assert one_entity.nll is None and one_entity.accuracy > 0.04
    assert effect.noise_of([], [], [5.0], [0]) == (None, None)


def test_texts_of_one_entity_are_no_independent_texts():
    """Six texts an entity that say the same are as many measurements as there are entities."""
    of_entities = [5.0, 6.0, 7.0, 9.0]
    repeated = [nll for nll in of_entities for _ in range(6)]
    entities = [f"forget/{number // 6}" for number in range(24)]
    by_entity = effect.noise_of([], [], repeated, entities).nll
    assert by_entity == pytest.approx(effect.noise_of([], [], of_entities, range(4)).nll)
    assert by_entity > 2 * effect.noise_of([], [], repeated, range(24)).nll
    # two entities are no basis for an interval
    assert effect.noise_of([], [], repeated[:12], entities[:12]).nll is None


@pytest.mark.parametrize(
    ("accuracy", "nll", "says"),
    [
        ((0.63, 0.63), (5.83, 5.89), True),
        ((0.63, 0.70), (5.83, 5.10), True),  # better than before: nothing was unlearned
        ((0.63, 0.30), (5.83, 5.89), False),
        ((0.63, 0.63), (5.83, 9.00), False),
        ((None, None), (5.83, 5.89), True),
        ((None, None), (None, None), False),  # not measured: nothing is said
    ],
)
def test_nothing_was_unlearned_where_nothing_moved_beyond_its_noise(accuracy, nll, says):
    noise = effect.MeasureNoise(None if None in accuracy else 0.17, None if None in nll else 0.5)
    words = effect.unmoved(accuracy, nll, noise)
    assert bool(words) == says
    if says and accuracy[0]:
        assert "forget accuracy 0.630 -> " in words and "NLL a token 5.830 -> " in words


def test_notes_propose_what_to_change():
    said = effect.nothing_note("x -> x", SETTINGS)
    assert said.startswith("nothing was unlearned: ")
    assert "--lr, now 1e-05" in said and "--steps, now 6" in said
    said = effect.collapsed_note(["a", "b"], SETTINGS, SimpleNamespace(retain_weight=2.0))
    assert said.startswith("collapsed, not unlearned: a; b. ")
    assert "--retain-weight (now 2)" in said
    assert "retain" not in effect.collapsed_note(["a"], SETTINGS, SimpleNamespace())


def test_after_a_quarter_of_its_steps_a_run_says_that_nothing_moves():
    model = torch.nn.Linear(1, 1)
    said, words = [], iter(["forget accuracy 1 -> 1", ""])
    for steps in (40, 40, 7):  # the second one moves, the third is too short to be looked at
        check = effect.QuarterCheck(
            steps, model, lambda: next(words), lambda *said_now: said.append(said_now)
        )
        assert not any(check.after_step(step, {}) for step in range(1, steps + 1))
    assert said == [("forget accuracy 1 -> 1", 10)] and model.training
    rule = SimpleNamespace(forget_weight=0.07, retain_weight=0.0)
    note = effect.still_note("x", 10, SimpleNamespace(lr=1e-5, steps=40), rule)
    assert note.startswith("after 10 of 40 steps nothing has moved: x.")
    assert "--lr, now 1e-05" in note and "a higher --forget-weight (now 0.07)" in note
    assert "a lower --retain-weight (now 0)" in note
    rule = SimpleNamespace(steering_coeff=5.0, alpha=1200.0)  # RMU's names
    note = effect.still_note("x", 10, SimpleNamespace(lr=1e-5, steps=40), rule)
    assert "a higher --steering-coeff (now 5) or a lower --alpha (now 1200)" in note


def test_what_was_so_before_is_no_sign_of_collapse(family, data):
    model, tokenizer = load_model(family.base), load_tokenizer(family.base)
    texts, limit = (
        (data / "neutral.txt").read_text().splitlines(),
        math.log(model.config.vocab_size),
    )
    watch = collapse.CollapseCheck(model, tokenizer, texts, {}, forget_nll=limit + 0.2)
    assert watch.check(model, limit + 0.1)[0] == []  # first use 8: above ln V as it came
    watch = collapse.CollapseCheck(model, tokenizer, texts, {}, forget_nll=limit - 0.2)
    assert "above ln V" in watch.check(model, limit + 0.1)[0][0]


def test_texts_that_moved_because_they_were_learned_are_no_sign(family, data):
    """First use 7: without neutral.txt the check reads the retain texts, which are trained on."""
    model, tokenizer = load_model(family.base), load_tokenizer(family.base)
    texts = (data / "retain.txt").read_text().splitlines()[:4]
    words = "the retain texts"
    learned = collapse.CollapseCheck(model, tokenizer, texts, {}, words)
    spoiled = collapse.CollapseCheck(model, tokenizer, texts, {}, words)
    ids = torch.tensor([tokenizer(texts[0])["input_ids"]])[:, : collapse.LENGTH]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    learned.examples = spoiled.examples = [ids[0].tolist()]
    start = load_model(family.base)
    for watch in (learned, spoiled):
        watch.before, watch.nll_before = list(watch._logprobs(start)), watch._nll(start)
    assert learned.kl(model) > collapse.LIMIT
    assert learned.check(model, None)[0] == []
    spoiled.nll_before = 0.0
    assert "predictions on the retain texts moved by" in spoiled.check(model, None)[0][0]


def test_the_words_say_which_texts_were_read(tmp_path, data):
    texts = SimpleNamespace(data=data, retain=["kept"])
    assert collapse.neutral_texts(texts).words == "neutral text"
    texts.data = tmp_path
    assert collapse.neutral_texts(texts) == (["kept"], "the retain texts (there is no neutral.txt)")


def test_a_run_that_changes_nothing_says_so(family, data, tmp_path, script):
    done = script(
        "unlearn/unlearn.py", "--model", family.base, "--method", "npo", "--steps", 8, "--lr", 0,
        "--forget", data / "forget.txt", "--root", tmp_path, "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "note: nothing was unlearned: forget accuracy" in done.out
    assert "note: after 2 of 8 steps nothing has moved: forget accuracy" in done.err
    assert "--lr, now 0" in done.out
    card = next(tmp_path.glob("*/unlearned_model/README.md")).read_text()
    assert "Note: nothing was unlearned" in card
