"""A logical unit whose transactions are in an SQLite file, as a `Store`.

Only on a file system of one host: when SQLite plays back what another process left unfinished,
it goes by a lock alone. A host that lost its lock without noticing, as on NFS, would go on to
write into what another one has played back.
"""

from __future__ import annotations

from typing import ClassVar

from flockpr.errors import StateUnreadable, StoreUnavailable
from flockpr.filesystems.facts import facts_of
from flockpr.store import files
from flockpr.store.author import Author
from flockpr.store.base import Snapshot
from flockpr.store.database import Database
from flockpr.store.database_trail import DatabaseTrail
from flockpr.store.directory import SETTLE_SECONDS, LunDirectory
from flockpr.store.layout import COMMITS, DATABASE, KEEP_COMMITS, SEGMENT
from flockpr.store.sqlite_file import DatabaseFile
from flockpr.store.syscalls import Syscalls
from flockpr.store.transactions import Trail, Transactions


class SqliteStore(LunDirectory):
    """The directory of one logical unit with a database, opened by one daemon.

    Args:
        path: ROOT/<lun>.
        syscalls: Where the calls go, but for those of SQLite.
        host: Name of this host, for the record; the default is the system's.
        keep: Transactions below the head that keep their documents.
        segment: Transactions that are moved to the audit trail together.
        settle: Seconds that a document stays after its successor was seen.
        serves: This is a daemon; see `LunDirectory`.

    Raises:
        StoreError: See `LunDirectory`; also where SQLite's locks cannot be trusted.
        ConfigError: `host` cannot be written into a document.
    """

    truth: ClassVar[str] = DATABASE
    litters: ClassVar[tuple[str, ...]] = ("",)

    def __init__(
        self,
        path: str,
        *,
        syscalls: Syscalls | None = None,
        host: str | None = None,
        keep: int = KEEP_COMMITS,
        segment: int = SEGMENT,
        settle: float = SETTLE_SECONDS,
        serves: bool = False,
    ) -> None:
        self._keep = keep
        self._segment = segment
        super().__init__(path, syscalls=syscalls, host=host, settle=settle, serves=serves)

    def _open_transactions(self) -> tuple[Transactions, Trail]:
        check_place(self._sys, self._fd, self.path)
        if files.exists(self._sys, COMMITS, dir_fd=self._fd):
            raise StateUnreadable(
                f"has {DATABASE} and {COMMITS}/, and one of them is not its own",
                self.path,
                "restore the whole directory from one backup",
            )
        file = DatabaseFile(self._sys, self._fd, self.path)
        incarnation = self.identity.incarnation
        author = Author(incarnation, self.daemon, self.host)
        trail = DatabaseTrail(file, incarnation, segment=self._segment, keep=self._keep)
        return Database(self._sys, self._fd, file, author), trail

    def head(self) -> Snapshot:
        """See `Store.head`. The path is looked at each time: SQLite finds the journal by it, and
        in a directory that was moved it would read what somebody left unfinished.
        """
        self._check_place(now=True)
        return super().head()


def check_place(syscalls: Syscalls, fd: int, path: str) -> None:
    """See that a directory is on a file system of one host.

    Args:
        syscalls: Where the calls go.
        fd: A descriptor of it.
        path: Its path, for messages.

    Raises:
        StoreUnavailable: It is not, or that is not known. For a person.
        OSError: It cannot be looked at.
    """
    if syscalls.coherent(fd):
        return
    fault = StoreUnavailable(
        f"is on {facts_of(path, fd=fd).filesystem}, where the locks of SQLite are not to be "
        "trusted: several hosts may be there, or may come to be",
        path,
        "use a file system of this host, such as ext4 or xfs; or a lock directory, which is what "
        "`flockpr lun create` makes without --store",
    )
    fault.for_a_person = True
    raise fault
