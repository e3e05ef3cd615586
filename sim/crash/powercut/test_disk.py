"""The drive is shown what it has to keep and what it may lose.

    python3 -B -m unittest discover -s sim/crash/powercut
"""

import random
import tempfile
import unittest

import disk

SECTOR = disk.SECTOR


class DriveTest(unittest.TestCase):
    def setUp(self):
        self.file = tempfile.NamedTemporaryFile()
        self.file.truncate(1 << 20)
        self.drive = disk.Drive(self.file.name)

    def tearDown(self):
        self.drive.image.close()
        self.file.close()

    def kept(self, offset, length):
        """What the image itself has."""
        with open(self.file.name, "rb") as image:
            image.seek(offset)
            return image.read(length)

    def test_reads_see_writes_before_and_after_the_flush(self):
        data = bytes(range(256)) * 8
        self.drive.write(SECTOR, data, False)
        expected = bytes(SECTOR) + data + bytes(SECTOR)
        self.assertEqual(self.drive.read(0, len(expected)), expected)
        self.assertEqual(self.kept(0, len(expected)), bytes(len(expected)))
        self.drive.flush()
        self.assertEqual(self.drive.read(0, len(expected)), expected)
        self.assertEqual(self.kept(0, len(expected)), expected)

    def test_writing_through_keeps_that_write_alone(self):
        self.drive.write(0, b"a" * SECTOR, False)
        self.drive.write(8 * SECTOR, b"b" * SECTOR, True)
        self.assertEqual(self.kept(8 * SECTOR, SECTOR), b"b" * SECTOR)
        self.assertEqual(self.kept(0, SECTOR), bytes(SECTOR))

    def test_what_was_flushed_survives_and_the_rest_survives_in_part(self):
        fates = set()
        for seed in range(200):
            self.drive.write(0, b"a" * 64 * SECTOR, False)
            self.drive.flush()
            self.drive.write(16 * SECTOR, b"b" * 32 * SECTOR, False)
            held, kept = self.drive.lose_power(random.Random(seed))
            image = self.kept(0, 64 * SECTOR)
            self.assertEqual(held, 32)
            self.assertEqual(image.count(b"b"), kept * SECTOR)
            self.assertEqual(image.count(b"a"), (64 - kept) * SECTOR)
            self.drive.volatile.clear()
            fates.add("none" if kept == 0 else "all" if kept == 32 else "torn" if kept % 8 else "part")
        self.assertEqual(fates, {"none", "all", "torn", "part"})


if __name__ == "__main__":
    unittest.main()
