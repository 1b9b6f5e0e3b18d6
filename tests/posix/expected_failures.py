"""The cases that come out another way than on a native file system, by design, and why."""

_LINKS = "a hard link is a second file of the same content with a receipt of its own: it counts no links"

EXPECTED: dict[str, str] = {
    "link_to-no_such_name": _LINKS + ", and the first file's ctime stays",
    "link_to-a_name_of_255_bytes": _LINKS,
    "link_to-a_path_of_4095_bytes": _LINKS,
    "times-link": _LINKS,
    "a_hard_link_counts": _LINKS,
    "kinds_of_nodes": "a library holds files and folders: symlinks, FIFOs, sockets and devices are EPERM",
    "a_file_without_a_name": "O_TMPFILE is EOPNOTSUPP: pyfuse3 has no tmpfile request",
}

# To an ordinary user these come out alike: it may do neither here nor there.
EXPECTED_OF_ROOT: dict[str, str] = {
    "link_to-in_a_folder_not_to_be_written": _LINKS,
    "another_owner": "a mount has one owner: chown is accepted and ignored",
}
