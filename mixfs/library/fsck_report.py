"""What a check of a library tells: counts, problems with their remedies, notes."""

from __future__ import annotations

from dataclasses import dataclass, field

# So many of one kind are told one by one, and the rest counted: one lost segment can be a million rows.
TOLD = 100
RESTORE = "Restore it from a backup"
REBUILD = "`mixfs rebuild-index` makes the index again from the journal"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be. `kind` is for programs, `where` a path or a row, `remedy` what to do.

    `affected` are the pictures and files that a damaged or missing blob is, as `SESSION/images/NAME`.
    """

    kind: str
    where: str
    reason: str
    remedy: str
    affected: tuple[str, ...] = ()


@dataclass(slots=True)
class Report:
    """What was looked at and what was found. `notes` are no damage: they go away by themselves, or cost only space."""

    blobs: int = 0
    blob_bytes: int = 0
    commits: int = 0
    rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not self.problems

    def add(self, kind: str, where: str, reason: str, remedy: str, affected: tuple[str, ...] = ()) -> None:
        """Add a problem, or count it when many of its kind were told already. Damaged blobs are told one by one."""
        problem = Problem(kind, where, reason, remedy, affected)
        if problem in self.problems:
            # What ends the part that the index has seen is met again when the rest is looked at.
            return
        number = self._counts[kind] = self._counts.get(kind, 0) + 1
        if number <= TOLD or affected:
            self.problems.append(problem)

    def finish(self) -> None:
        for kind, number in self._counts.items():
            if number > max(TOLD, sum(problem.kind == kind for problem in self.problems)):
                self.notes.append(f"{number - TOLD:,} more problems of the kind {kind} are not listed one by one.")
