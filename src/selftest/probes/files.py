"""Reads, lists, writes and changes files by path, and says what came of it."""

import os
import stat

from raw import attempt


def f(event):
    return {path: ACTIONS[event["do"]](path) for path in event["paths"]}


def read(path):
    def all_of_it():
        if os.path.isdir(path):
            os.listdir(path)
        else:
            with open(path, "rb") as file:
                file.read(4096)

    return attempt(all_of_it)


def tamper(path):
    """The first way of changing something at this path that works, or how all of them end."""
    ends = set()
    for way in (
        lambda: os.unlink(path),
        lambda: os.rename(path, path + ".moved"),
        lambda: os.truncate(path, 0),
        lambda: os.chmod(path, 0o777),
        lambda: os.utime(path),
        lambda: os.symlink("/tmp", path + ".link"),
        lambda: os.setxattr(path, "user.x", b"x"),
        lambda: os.chown(path, os.getuid(), os.getgid()),
        # Writing to a device changes nothing.
        *([] if is_device(path) else [lambda: os.close(os.open(path, os.O_WRONLY))]),
    ):
        end = attempt(way)
        if end == "ok":
            return "ok"
        ends.add(end)
    return " ".join(sorted(ends))


def is_device(path):
    return os.path.exists(path) and stat.S_ISCHR(os.stat(path).st_mode)


def touch(path):
    return attempt(lambda: os.close(os.open(path, os.O_CREAT | os.O_WRONLY)))


def create(path):
    """Makes a file in this directory, and in all below it two deep."""
    made = []
    for directory, names, _ in os.walk(path):
        if directory.startswith(("/proc", "/tmp")):
            names.clear()
            continue
        if directory.count("/") > 2:
            names.clear()
        mine = os.path.join(directory, "made-by-a-function")
        if attempt(lambda: os.close(os.open(mine, os.O_CREAT | os.O_WRONLY))) == "ok":
            made.append(mine)
    return made


def text(path):
    with open(path) as file:
        return file.read()


def names(path):
    return sorted(os.listdir(path))


ACTIONS = {"read": read, "touch": touch, "tamper": tamper, "create": create, "text": text, "names": names}
