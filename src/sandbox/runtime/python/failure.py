"""What to say when the function fails: its traceback, without the frames that are the runtime's."""

import traceback
from os.path import dirname

RUNTIME = dirname(__file__) + "/"


def text(error):
    """The traceback as the function's author expects it: the function's own frames only."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(RUNTIME):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def report(error):
    """The body of the answer to a call that raised `error`. It never fails."""
    try:
        if isinstance(error, SystemExit):
            said = f"the function called sys.exit({error.code!r}); it ends by returning a result\n\n"
        elif isinstance(error, KeyboardInterrupt):
            said = "the function was interrupted (KeyboardInterrupt)\n\n"
        else:
            said = ""
        return (said + text(error)).encode("utf-8", "backslashreplace")
    except BaseException:
        # Memory is short, or the error's own methods fail. The frames hold what the function had
        # allocated; without them, there is room for a few words.
        error.__traceback__ = error.__context__ = None
        return b"the function failed with " + type(error).__name__.encode("utf-8", "replace") + b"\n"
