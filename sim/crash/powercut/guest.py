"""An emulated machine whose disk forgets what was not flushed when the power goes.

The disk is an image served over NBD, by one of two drives with a volatile cache. `cache` is nbdkit with
its cache filter in write-back mode, which keeps writes in its own memory until a flush comes: killing
it and the machine together loses all of them. `lottery` is disk.py, which loses a random part.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from witness.options import WITH_US

HERE = Path(__file__).resolve().parent
# Modules of Debian's cloud kernel that the guest needs; ext4 is built in.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net")
DISK_BYTES = 1 << 30
MEMORY_MIB = 1_024
# What nbdkit takes for each block that a flush writes, so that cuts fall into flushes.
WRITE_DELAY = "1ms"
# Programs of the guest besides the relay.
APPLETS = ("sh", "mount", "insmod", "ip", "date", "uname", "sed", "sleep", "grep", "sync",
           "find", "wc")


def find_module(modules, name):
    """The file of a module, whose name may be written with dashes."""
    pattern = re.compile(re.escape(name).replace("_", "[-_]") + r"\.ko$")
    for path in modules.rglob("*.ko"):
        if pattern.fullmatch(path.name):
            return path
    raise SystemExit(f"the kernel has no module {name} under {modules}")


def in_load_order(modules, names):
    """The modules and what they need, each after what it needs."""
    order = []

    def add(name):
        path = find_module(modules, name)
        if path in order:
            return
        # The section .modinfo holds "key=value" strings that end in a zero byte.
        found = re.search(rb"\0depends=([^\0]*)\0", b"\0" + path.read_bytes())
        for needed in found.group(1).decode().split(",") if found else ():
            if needed:
                add(needed)
        if path not in order:
            order.append(path)

    for name in names:
        add(name)
    return order


def libraries(binary):
    """Shared libraries of a program, with the loader."""
    listed = subprocess.run(["ldd", binary], check=True, capture_output=True, text=True).stdout
    return [Path(path) for path in re.findall(r"(/\S+)", listed)]


def make_initramfs(work, kernel, binary, config):
    """Busybox, the modules, the relay with its libraries, and `init`, as one archive."""
    tree = work / "initramfs"
    shutil.rmtree(tree, ignore_errors=True)
    for folder in ("bin", "modules", "etc", "dev", "proc", "sys", "tmp", "disk"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), tree / "bin/busybox")
    for applet in APPLETS:
        (tree / "bin" / applet).symlink_to("busybox")
    order = in_load_order(kernel / "lib/modules", MODULES)
    for path in order:
        shutil.copy(path, tree / "modules" / path.name)
    (tree / "modules/order").write_text("".join(f"{path.name}\n" for path in order))
    # Debug information only costs memory in there; the code stays as it is.
    subprocess.run(["strip", "--strip-debug", "-o", tree / "bin/turnpike", binary], check=True)
    for library in libraries(binary):
        place = tree / str(library).lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)
    (tree / "etc/turnpike.toml").write_text(config)
    shutil.copy(HERE / "init", tree / "init")
    (tree / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    archive = work / "initramfs.cpio"
    with open(archive, "wb") as out:
        subprocess.run(["busybox", "cpio", "-o", "-H", "newc"], cwd=tree, check=True, stdout=out,
                       input=names.encode(), stderr=subprocess.DEVNULL)
    return archive


def make_disk(path):
    """An empty ext4."""
    path.unlink(missing_ok=True)
    with open(path, "wb") as image:
        image.truncate(DISK_BYTES)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", path], check=True,
                   env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class CacheDrive:
    """nbdkit: nothing that was not flushed survives."""

    name = "cache"
    is_killed = True

    def command(self, link, disk):
        return ["nbdkit", "--foreground", "--unix", link, "--filter=cache",
                "--filter=delay", "file", disk, "cache=writeback", f"wdelay={WRITE_DELAY}"]


class LotteryDrive:
    """disk.py: of what was not flushed, anything may survive."""

    name = "lottery"
    is_killed = False

    def __init__(self, seed):
        self.seed = seed

    def command(self, link, disk):
        return [sys.executable, "-B", HERE / "disk.py", disk, link, str(self.seed)]


class Machine:
    """One power-up: qemu and the server of its disk. Both processes are ours."""

    def __init__(self, work, kernel, initramfs, disk, drive, command_line, cpu):
        self.drive = drive
        self.serial = work / "serial.log"
        self.serial.unlink(missing_ok=True)
        self.port = free_port()
        link = work / "disk.sock"
        link.unlink(missing_ok=True)
        self.server_log = work / f"{drive.name}.log"
        self.server_log.unlink(missing_ok=True)
        self.server = self._spawn(self.server_log, drive.command(link, disk))
        while not link.exists():
            if self.server.poll() is not None:
                raise SystemExit(f"the drive ended; see {self.server_log}")
            time.sleep(0.01)
        image = next((kernel / "boot").glob("vmlinuz-*"))
        self.qemu = self._spawn(work / "qemu.log", [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", cpu, "-smp", "2",
            "-m", str(MEMORY_MIB), "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-serial", f"file:{self.serial}",
            "-kernel", image, "-initrd", initramfs,
            "-append", f"console=ttyS0 quiet panic=-1 {command_line}",
            "-drive", f"file=nbd+unix:///?socket={link},if=none,id=disk,format=raw,cache=writeback",
            "-device", "virtio-blk-pci,drive=disk",
            "-netdev", "user,id=net,restrict=on,"
                       f"hostfwd=tcp:127.0.0.1:{self.port}-10.0.2.15:7777",
            "-device", "virtio-net-pci,netdev=net,romfile="])

    @staticmethod
    def _spawn(log, command):
        with open(log, "ab") as out:
            return subprocess.Popen([*WITH_US, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def said(self):
        return self.serial.read_text(errors="replace") if self.serial.exists() else ""

    def wait_for(self, words, patience_s):
        """Waits until the console has said one of `words`, and returns it; None if it never does."""
        give_up_s = time.monotonic() + patience_s
        while time.monotonic() < give_up_s:
            is_running = self.qemu.poll() is None
            said = self.said()
            for word in words:
                if word in said:
                    return word
            if not is_running:
                return None
            time.sleep(0.05)
        return None

    def cut(self):
        """The power goes. nbdkit is killed and loses what it held; the other drive draws what of it
        survives. Returns (sectors held, sectors that survived), as far as the drive says so."""
        self.qemu.kill()
        if self.drive.is_killed:
            self.server.kill()
        self.qemu.wait()
        self.server.wait()
        counted = re.search(r"(\d+) sectors were not flushed, (\d+) of them survived",
                            self.server_log.read_text(errors="replace"))
        return tuple(map(int, counted.groups())) if counted else (0, 0)
