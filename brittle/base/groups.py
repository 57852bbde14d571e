"""A script's --help in groups: data, training, a method's knobs, and so on.

An option's group is its `rich_help_panel`. Options that scripts share have it in options.py, knobs
have it from `command.with_knobs`. A script names the groups of its own options in a table that it
hands to `command.run`; what is in none stands first. A help that fits into a screen has no groups.
"""

from typer.core import TyperCommand

ARGUMENTS, OPTIONS = "Arguments", "Options"
DATA = "Data"
SAVING = "Hub and saving"
GUARD = "Guard around the model"
MACHINE = "Machine, seed and code"
LAST = (SAVING, GUARD, MACHINE)  # whatever the order of the options
SMALL = 12  # options that are listed without groups


def command_class(groups=None):
    """The class of a typer command whose --help is in groups.

    groups: {name: names of arguments}, in their order; it wins over `rich_help_panel`.
    """
    group_of = {name: group for group, names in (groups or {}).items() for name in names}

    class GroupedCommand(TyperCommand):
        def format_options(self, ctx, formatter):
            parameters = [p for p in self.get_params(ctx) if p.get_help_record(ctx)]
            is_small = len(parameters) <= SMALL
            listed = {name: [] for name in (ARGUMENTS, OPTIONS, *(groups or {}))}
            for parameter in parameters:
                panel = getattr(parameter, "rich_help_panel", None) or OPTIONS
                name = OPTIONS if is_small else group_of.get(parameter.name, panel)
                if parameter.param_type_name == "argument":
                    name = ARGUMENTS
                listed.setdefault(name, []).append(parameter.get_help_record(ctx))
            for name in sorted(listed, key=_place):
                if listed[name]:
                    with formatter.section(name):
                        formatter.write_dl(listed[name])

    return GroupedCommand


def _place(name):
    """The place of a group: those of LAST stand last, others in the order in which they come."""
    return LAST.index(name) if name in LAST else -1
