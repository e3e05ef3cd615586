#!/usr/bin/env python3
"""A drive with a volatile cache, as an NBD server, that keeps at a power cut whatever it happened to
have written: any of the sectors that were not flushed, in any order.

    disk.py IMAGE SOCKET SEED

nbdkit's cache loses all of them, which is one legal outcome, and the recovery of a torn end never
gets to see any other. Serves one connection; when it breaks, the lottery is held and the image is what
a machine finds when the power is back. Answers a flush only when the image has everything.
"""

import os
import random
import select
import socket
import struct
import sys

SECTOR = 512
# Sectors that mostly share one fate: what a file system writes at once.
BLOCK_SECTORS = 8
# Shares of unflushed blocks that survive, one of them drawn per cut.
SURVIVAL = (0.0, 0.1, 0.5, 0.9, 1.0)
# Seconds that a flush takes at most. Real drives take as long; without it hardly a cut would find
# anything that is not flushed.
FLUSH_S_MAX = 0.02
# Blocks that survive in part.
TORN = 0.1

OPT_EXPORT_NAME, OPT_ABORT, OPT_INFO, OPT_GO = 1, 2, 6, 7
REP_ACK, REP_INFO, REP_ERR_UNSUP = 1, 3, 0x80000001
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
FLAG_FUA = 1
# Has flags, can flush, knows "force unit access".
EXPORT_FLAGS = 1 | 4 | 8
EINVAL = 22


class Gone(Exception):
    """The machine has no power any more."""


class Drive:
    """The image and the sectors that it does not have yet."""

    def __init__(self, path):
        self.image = open(path, "r+b", buffering=0)
        self.bytes = os.fstat(self.image.fileno()).st_size
        self.volatile = {}

    def read(self, offset, length):
        data = bytearray(os.pread(self.image.fileno(), length, offset))
        first, last = offset // SECTOR, (offset + length) // SECTOR
        if len(self.volatile) < last - first:
            held = (sector for sector in self.volatile if first <= sector < last)
        else:
            held = (sector for sector in range(first, last) if sector in self.volatile)
        for sector in held:
            at = (sector - first) * SECTOR
            data[at : at + SECTOR] = self.volatile[sector]
        return data

    def write(self, offset, data, is_through):
        first = offset // SECTOR
        for index in range(len(data) // SECTOR):
            self.volatile[first + index] = data[index * SECTOR : (index + 1) * SECTOR]
        if is_through:
            self._settle(range(first, first + len(data) // SECTOR))

    def flush(self):
        self._settle(list(self.volatile))

    def _settle(self, sectors):
        for sector in sectors:
            os.pwrite(self.image.fileno(), self.volatile.pop(sector), sector * SECTOR)

    def lose_power(self, rng):
        """Decides about each sector, and says what was held and what survived."""
        held, share = len(self.volatile), rng.choice(SURVIVAL)
        blocks = {}
        for sector in self.volatile:
            blocks.setdefault(sector // BLOCK_SECTORS, []).append(sector)
        kept = []
        for sectors in blocks.values():
            is_torn = rng.random() < TORN
            survives = rng.random() < share
            kept += [one for one in sectors if (rng.random() < share if is_torn else survives)]
        self._settle(kept)
        return held, len(kept)


class Connection:
    """The wire of NBD: the fixed newstyle handshake and simple replies."""

    def __init__(self, stream):
        self.stream = stream

    def take(self, count):
        data = bytearray()
        while len(data) < count:
            try:
                chunk = self.stream.recv(min(count - len(data), 1 << 20))
            except OSError as error:
                raise Gone from error
            if not chunk:
                raise Gone
            data += chunk
        return bytes(data)

    def give(self, data):
        try:
            self.stream.sendall(data)
        except OSError as error:
            raise Gone from error

    def shake_hands(self, drive):
        self.give(b"NBDMAGICIHAVEOPT" + struct.pack("!H", 1 | 2))
        self.take(4)
        while True:
            _, option, length = struct.unpack("!8sII", self.take(16))
            self.take(length)
            export = struct.pack("!QH", drive.bytes, EXPORT_FLAGS)
            if option == OPT_EXPORT_NAME:
                return self.give(export)
            if option in (OPT_GO, OPT_INFO):
                self._reply(option, REP_INFO, struct.pack("!H", 0) + export)
                self._reply(option, REP_ACK)
                if option == OPT_GO:
                    return None
            elif option == OPT_ABORT:
                self._reply(option, REP_ACK)
                raise Gone
            else:
                self._reply(option, REP_ERR_UNSUP)

    def _dawdle(self):
        """Takes a while, unless the power goes first: the flush has not happened then."""
        ready, _, _ = select.select([self.stream], [], [], random.uniform(0, FLUSH_S_MAX))
        if ready and not self.stream.recv(1, socket.MSG_PEEK):
            raise Gone

    def _reply(self, option, kind, data=b""):
        self.give(struct.pack("!QIII", 0x3E889045565A9, option, kind, len(data)) + data)

    def serve(self, drive):
        while True:
            _, flags, command, cookie, offset, length = struct.unpack("!IHHQQI", self.take(28))
            data, error = b"", 0
            if command in (READ, WRITE):
                payload = self.take(length) if command == WRITE else b""
                if offset % SECTOR or length % SECTOR or offset + length > drive.bytes:
                    error = EINVAL
                elif command == READ:
                    data = bytes(drive.read(offset, length))
                else:
                    drive.write(offset, payload, bool(flags & FLAG_FUA))
            elif command == FLUSH:
                self._dawdle()
                drive.flush()
            elif command == DISCONNECT:
                drive.flush()
                raise Gone
            else:
                error = EINVAL
            self.give(struct.pack("!IIQ", 0x67446698, error, cookie) + data)


def main():
    image, path, seed = sys.argv[1:]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    stream, _ = listener.accept()
    drive = Drive(image)
    connection = Connection(stream)
    try:
        connection.shake_hands(drive)
        connection.serve(drive)
    except Gone:
        held, kept = drive.lose_power(random.Random(int(seed)))
        print(f"{held} sectors were not flushed, {kept} of them survived", flush=True)


if __name__ == "__main__":
    main()
