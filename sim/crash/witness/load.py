"""Writers that publish a corpus until the power goes."""

import threading
import time

from .wire import Client, Cut

# Answers to an event that say that the relay could not, not that the event is wrong.
RELAY_TROUBLE = ("error:", "rate-limited:", "restricted:", "auth-required:")


class Lines:
    """Lines of a corpus, each handed out once, to whichever writer asks."""

    def __init__(self, file):
        self.lock = threading.Lock()
        self.file = file
        self.first = []
        self.is_used_up = False

    def put_first(self, lines):
        """What is sent before the rest of the corpus."""
        with self.lock:
            self.first.extend(lines)

    def next(self):
        with self.lock:
            if self.first:
                return self.first.pop()
            line = self.file.readline().rstrip("\n")
            self.is_used_up = not line
            return line or None


class Load:
    """Some connections that write at once, each with a window of events under way."""

    def __init__(self, address, ledger, lines, connections, window):
        self.ledger = ledger
        self.lines = lines
        self.window = window
        self.address = address
        self.lock = threading.Lock()
        self.accepted = 0
        self.faults = []
        # Refusals that blame the relay, not the event.
        self.troubles = []
        self.began_s = time.monotonic()
        self.threads = [threading.Thread(target=self._write) for _ in range(connections)]
        for thread in self.threads:
            thread.start()

    def wait_for(self, accepted, patience_s):
        """Waits until this many events have been acknowledged, for `patience_s` at most."""
        give_up_s = time.monotonic() + patience_s
        while self.accepted < accepted and time.monotonic() < give_up_s and self.is_running():
            time.sleep(0.002)

    def is_running(self):
        return any(thread.is_alive() for thread in self.threads)

    def join(self):
        for thread in self.threads:
            thread.join()

    def _write(self):
        try:
            client = Client(self.address)
        except Cut:
            return
        try:
            under_way = 0
            while True:
                while under_way < self.window:
                    line = self.lines.next()
                    if line is None:
                        break
                    self.ledger.add_sent(line)
                    client.queue_text(f'["EVENT",{line}]')
                    under_way += 1
                # With nothing left to say the writer still listens until the power goes.
                message = client.recv()
                if message[0] == "OK":
                    under_way -= 1
                    self._learn(*message[1:4])
                elif message[0] != "AUTH":
                    self._fault(f"unexpected message {message}")
        except Cut:
            pass
        finally:
            client.close()

    def _learn(self, id_, accepted, message):
        if not self.ledger.add_answer(id_, accepted, message):
            self._fault(f"an OK that nothing asked for: {id_} {accepted} {message}")
        if accepted:
            with self.lock:
                self.accepted += 1
        elif message.startswith(RELAY_TROUBLE):
            with self.lock:
                self.troubles.append(f"refused for no fault of the event: {message}")

    def _fault(self, text):
        with self.lock:
            self.faults.append(text)
