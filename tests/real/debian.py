"""A fresh Debian 12 and the package of this tree, for the tests that install it. Needs mmdebstrap, systemd/package and root."""

import pathlib
import subprocess
import tempfile

import parts

# What Debian's installer leaves on a small machine, as far as the package touches it.
INSTALLED = ["systemd", "systemd-sysv", "dbus", "udev", "tzdata"]
# A folder of it in which the tests hand files over.
HANDED = "var/cache"


def root():
    """The root folder of a fresh Debian, made once. Nobody writes into it: it is copied."""
    folder = parts.PARTS / "debian"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = pathlib.Path(scratch) / "root"
            command = [parts.tool("mmdebstrap"), "--quiet", "--variant=minbase", f"--include={','.join(INSTALLED)}", "bookworm", made]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            # Whole or not at all: a folder that is there can be used.
            made.rename(folder)
    return folder


def package(version, folder):
    """The package of this tree's program, as this version, in a folder."""
    command = [parts.ROOT / "systemd" / "package", "amd64", "--profile", "dev", "--fast", "--deb-version", version, "-o", folder]
    done = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return pathlib.Path(parts.ROOT, done.stdout.split()[-1])


class Drop:
    """A drop-in of the unit, on a machine whose root is a folder here."""

    def __init__(self, root):
        self.file = root / "etc" / "systemd" / "system" / "dumbwaiter.service.d" / "test.conf"

    def write(self, *lines):
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("\n".join(["[Service]", *lines, ""]))

    def remove(self):
        self.file.unlink()
        self.file.parent.rmdir()
