"""What may act around the optimizer steps of the training loop: weight masks, evaluations, logs."""


class StepHook:
    """Acts around every optimizer step. A subclass overrides what it needs."""

    def start(self, names):
        """Before the first step. names: the parameters that train in any step."""

    def begin_step(self, progress):
        """Before the losses; `progress` is the share of the run that is done, 0 to 1.

        Returns True where other parameters may train from here, by new optimizers.
        """
        return False

    def before_step(self):
        """The gradients of the whole step are in .grad, not clipped yet."""

    def after_step(self, step, row):
        """The weights have moved; `step` steps are done. May add to `row`, the history's.

        Returns True to end the run here.
        """
        return False


class AfterStep(StepHook):
    """A plain function(step, row) behind every step; the run ends where it returns True."""

    def __init__(self, function):
        self.function = function

    def after_step(self, step, row):
        return self.function(step, row)
