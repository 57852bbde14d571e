"""One kind of error for what a user can mend.

Its text is one line: what was asked, what there is, what to do.
"""


class UserError(ValueError):
    """Shown as `error: ...` without a traceback; exit status 2."""
