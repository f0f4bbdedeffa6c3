"""What the standard library wants to have done around a fork, and is not needed when a zygote is forked.

`threading`, `logging`, `random` and `concurrent.futures` register handlers that run at every fork
(`os.register_at_fork`). Of a zygote's fork they mend nothing: it has one thread, which holds no lock, and `identity`
seeds the generators. But in the child they write to 180 pages, which is a third of what its birth costs. So those of
what a zygote imports by itself are passed over when it is forked for the worker, and by no other fork. What packages
and functions register runs always.
"""

import os

_register = os.register_at_fork
# Whether a fork that comes now is for the worker.
_for_worker = False


def begin():
    """From here on, what is registered will be passed over in forks for the worker."""
    os.register_at_fork = _register_some


def end():
    """From here on, what is registered runs always."""
    os.register_at_fork = _register


def _register_some(**handlers):
    _register(**{when: _unless_for_worker(handler) for when, handler in handlers.items()})


def _unless_for_worker(handler):
    def run():
        if not _for_worker:
            handler()

    return run


def for_worker(serve):
    """`serve` forks on the worker's behalf, and returns in a fork, or when there is nothing more to be forked."""

    def run(control_fd):
        global _for_worker
        _for_worker = True
        try:
            return serve(control_fd)
        finally:
            _for_worker = False

    return run
