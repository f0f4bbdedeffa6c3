"""What must differ between two forks of one zygote, and between them and the zygote.

A fork inherits every generator of random numbers with its state, and in its own pid namespace it has the
pid of all others, so that libraries which compare pids do not notice. Only what is imported is touched:
what is imported later seeds itself from the kernel.

Not to be had: the seed of hash(str). It is fixed when an interpreter starts (PYTHONHASHSEED, or random), and
all forks of one zygote share it. Who makes two lambdas share a zygote lets one learn the other's.
"""

import os
from sys import modules


# Whether this process has an identity of its own. `runtime.main` sets it anew after the fork.
is_renewed = False


def ensure():
    """Gives this process an identity of its own, if it has none yet."""
    if not is_renewed:
        renew(os.urandom(32))


def renew(seed):
    """Gives this process an identity of its own. `seed`: 32 fresh random bytes."""
    global is_renewed
    is_renewed = True
    words = [int.from_bytes(seed[at : at + 4], "little") for at in range(0, len(seed), 4)]

    random = modules.get("random")
    if random:
        random.seed(int.from_bytes(seed, "little"))

    numpy_random = modules.get("numpy.random")
    if numpy_random:
        # The same generator as Python's own: with the same words, it would give the same numbers.
        numpy_random.seed(words[::-1])

    ssl = modules.get("ssl")
    if ssl:
        # OpenSSL notices a fork by the pid.
        ssl.RAND_add(seed, len(seed))

    uuid = modules.get("uuid")
    if uuid:
        uuid._node = None
        uuid._last_timestamp = None

    tempfile = modules.get("tempfile")
    if tempfile:
        # Its generator of names is renewed when the pid changes, and its directory is of the zygote's TMPDIR.
        tempfile._name_sequence = None
        tempfile.tempdir = None

    process = modules.get("multiprocessing.process")
    if process:
        process.current_process().authkey = os.urandom(32)
