"""Keys for all contenders: the same secrets and organizations in each one's own form."""

import hashlib
import os
import random

ORGS = 5000
SAMPLE = 1000


def secret(n):
    return "kg_live_" + hashlib.blake2b(b"bench %d" % n, digest_size=20).hexdigest()


def org(n):
    return f"org-{n % ORGS}"


class Keys:
    """`count` keys; files are made once per directory and kept."""

    def __init__(self, directory, count):
        self.count = count
        self.directory = directory
        os.makedirs(directory, exist_ok=True)

    def _file(self, name, write):
        path = os.path.join(self.directory, f"{self.count}.{name}")
        if not os.path.exists(path):
            partial = path + ".part"
            with open(partial, "w", buffering=1 << 20) as f:
                write(f)
            os.rename(partial, path)
        return path

    def pairs(self):
        return ((secret(n), org(n)) for n in range(self.count))

    def plain(self):
        """`secret org`, which is a HAProxy map as well."""
        return self._file("keys", lambda f: f.writelines(f"{s} {o}\n" for s, o in self.pairs()))

    def nginx(self):
        return self._file("nginx", lambda f: f.writelines(f"{s} {o};\n" for s, o in self.pairs()))

    def jsonl(self, row):
        """One line per key as `row(n, secret, org)` has it."""
        return self._file(
            "jsonl",
            lambda f: f.writelines(row(n, s, o) for n, (s, o) in enumerate(self.pairs())),
        )

    def sample(self):
        """Keys that requests present, spread at random over all."""
        numbers = random.Random(1).sample(range(self.count), min(SAMPLE, self.count))
        return [(secret(n), org(n)) for n in numbers]

    def sample_file(self):
        return self._file("sample", lambda f: f.writelines(f"{s} {o}\n" for s, o in self.sample()))
