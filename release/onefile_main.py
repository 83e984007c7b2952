# The first lines of flockpr.pyz. They unpack what is beside them once, for this user, since a
# compiled module cannot be loaded from an archive and daemons start processes of their own, and
# go on there. Called by another program's name, through a link, it is that program.
import os
import sys
import zipfile

TAG = "@TAG@"
DIGEST = "@DIGEST@"
SCRIPTS = {"@SCRIPTS@": ""}


def fail(text):
    sys.exit("flockpr: " + text)


def check():
    import platform

    tag = "%s-%s" % (sys.implementation.cache_tag, platform.machine())
    if tag != TAG:
        fail("this file is for %s, and this is %s; build it there, or use pip" % (TAG, tag))


def bases():
    home = os.path.expanduser("~")
    cache = os.environ.get("XDG_CACHE_HOME") or (home != "~" and os.path.join(home, ".cache"))
    if cache and os.path.isabs(cache):
        yield os.path.join(cache, "flockpr")
    yield "/tmp/flockpr-%d" % os.geteuid()


def usable(directory):
    """Whether it is ours alone: what is in it will be executed."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        found = os.lstat(directory)
    except OSError:
        return False
    ours = found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return ours and not os.path.islink(directory) and os.access(directory, os.W_OK)


def unpacked():
    for base in bases():
        place = os.path.join(base, DIGEST)
        if usable(base):
            if not os.path.isdir(place):
                unpack(base, place)
            return place
    return fail("no directory to unpack to; set XDG_CACHE_HOME to one that is yours alone")


def unpack(base, place):
    import shutil
    import tempfile

    own = tempfile.mkdtemp(dir=base)
    try:
        with zipfile.ZipFile(os.path.abspath(sys.argv[0])) as archive:
            members = [name for name in archive.namelist() if name.startswith("site/")]
            archive.extractall(own, members)
        os.rename(os.path.join(own, "site"), place)
    except OSError as error:
        if not os.path.isdir(place):  # another process was not faster
            fail("cannot unpack to %s: %s" % (base, error))
    finally:
        shutil.rmtree(own, ignore_errors=True)


def main():
    check()
    place = unpacked()
    sys.path[0] = place
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = place + (os.pathsep + before if before else "")
    name = os.path.basename(sys.argv[0])
    module, function = SCRIPTS.get(name, SCRIPTS["flockpr"]).split(":")
    import importlib

    sys.exit(getattr(importlib.import_module(module), function)())


main()
