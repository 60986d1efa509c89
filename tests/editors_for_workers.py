"""Editors that workers make for themselves, and what can go wrong with them."""

import os
import signal
import time
from pathlib import Path

from distributed import get_worker
from sequence_to_kill import make_editor

from rrome import Editor, RromeError


def make_own_editor() -> Editor:
    """An editor whose prefixes are each worker's own."""
    return make_editor(["{}", f"Worker {get_worker().name} says. {{}}"])


def make_mortal_editor(folder: Path, subject: str, deaths: int = 1) -> Editor:
    """An editor whose process is killed when it comes to a subject, as often as `deaths` says."""
    return Mortal(make_editor(), folder, subject, deaths)


def make_failing_editor(subject: str) -> Editor:
    """An editor that finds no v_e for a subject."""
    return Failing(make_editor(), subject)


class Failing(Editor):
    """Raises RromeError when it comes to a subject."""

    def __init__(self, editor: Editor, subject: str):
        super().__init__(editor.model, editor.second_moment, editor.prefixes)
        self.subject = subject

    def solve_all(self, facts):
        """v_e, except of one fact."""
        if any(fact.subject == self.subject for fact in facts):
            raise RromeError(f"no value for {self.subject}")
        return super().solve_all(facts)


class Mortal(Editor):
    """Leaves in `folder` a line for every subject that it searches, and a file for every death."""

    def __init__(self, editor: Editor, folder: Path, subject: str, deaths: int):
        super().__init__(editor.model, editor.second_moment, editor.prefixes)
        self.folder, self.subject, self.deaths = folder, subject, deaths
        self.searched: list[str] = []

    def solve_all(self, facts):
        """v_e, if it lives to see it."""
        self._come_to(facts)
        return super().solve_all(facts)

    def solve_each(self, facts, weights=None):
        """The same in a sequence."""
        if weights is not None:
            self._come_to(facts)
        return super().solve_each(facts, weights)

    def _come_to(self, facts):
        """Die, if it is time; what was found earlier is written down elsewhere before."""
        died = len(list(self.folder.glob("death-*")))
        if died < self.deaths and any(fact.subject == self.subject for fact in facts):
            (self.folder / f"death-{died}").touch()
            while (journal := self.folder / "study.jsonl").exists() and not self._in(journal.read_text()):
                time.sleep(0.01)
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        self.searched += [fact.subject for fact in facts]
        with open(self.folder / "searched", "a", encoding="utf-8") as file:
            file.writelines(fact.subject + "\n" for fact in facts)

    def _in(self, journal: str) -> bool:
        return all(subject in journal for subject in self.searched)
