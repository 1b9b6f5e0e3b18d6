"""The cases that come out another way than on a native file system, by design, and why. Patterns as for fnmatch."""

EXPECTED: dict[str, str] = {
}
