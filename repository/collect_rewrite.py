"""Rewriting what is mostly dead, and many small segments into few: which, and what takes their place.

A session writes a small segment every few packs, so that little is lost with it; whoever opens the
repository to write reads all segments, one request each. What is still needed is stored elsewhere before the plan that condemns the old place is published.
Packs that a running session has written, or that are under quarantine or deleted, are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from repository.collect_draft import Draft
from repository.collect_settings import CollectSettings
from repository.collect_tools import CollectTools
from repository.errors import CollectionRefused, RepositoryError
from repository.layout import SEGMENTS, pack_key
from repository.locating import read_segments
from repository.places import Places
from repository.rewriting import SEGMENT_ROWS_MAX, Rewriter, rows_of_pack
from repository.segments import Segment
from repository.store import ObjectInfo
from repository.usage import Refs, SegmentUse, Usage

_SEGMENT_DEAD_SHARE_MAX = 0.25
SMALL_ROWS = SEGMENT_ROWS_MAX // 4
"""A segment of fewer rows is small. A row is copied again until its segment is not: a few times."""
SMALL_SEGMENTS_MIN = 64
"""Fewer small segments stay as they are: they cost nobody anything."""
_MERGED_ROWS_MAX = 25 * SEGMENT_ROWS_MAX  # in one run


class Rewriting:
    """The rewriting of one plan; with `dry_run` it only counts."""

    def __init__(
        self,
        tools: CollectTools,
        settings: CollectSettings,
        gone: Set[str],
        quarantined: Set[str],
        running: Set[str],
    ) -> None:
        """`gone` are names of objects, `quarantined` ids of objects, `running` ids of sessions."""
        self._tools = tools
        self._settings = settings
        self._gone = gone
        self._quarantined = quarantined
        self._running = running

    def run(
        self,
        draft: Draft,
        packs: dict[bytes, ObjectInfo],
        usage: Usage,
        refs: Refs,
        *,
        session: str,
        dry_run: bool,
    ) -> None:
        """Copy what is needed, durably, and condemn what it was copied from."""
        worth = self._worth_rewriting(packs, usage)
        rewriter = Rewriter(
            self._tools.store,
            self._tools.records,
            self._tools.pack_target_bytes,
            session,
            self._tools.check_stop,
        )
        rows = {} if dry_run or not worth else self._rows(worth)
        for pack_id in worth:
            self._tools.check_stop()
            if not dry_run and not rewriter.copy_pack(rows[pack_id], refs, usage):
                draft.skipped_packs += 1
                continue
            draft.rewritten_packs += 1
            draft.rewritten_bytes += packs[pack_id].size_bytes
            draft.condemn([packs[pack_id]])
        if not dry_run:
            rewriter.finish()
        self._rewrite_segments(draft, usage, rewriter, dry_run=dry_run)
        draft.stored_bytes = rewriter.stored_bytes

    def _worth_rewriting(self, packs: dict[bytes, ObjectInfo], usage: Usage) -> list[bytes]:
        """Packs with more dead bytes than allowed, the deadest first, within the byte budget."""
        share_max = self._settings.rewrite_dead_percent / 100
        candidates = [
            pack_id
            for pack_id, use in usage.packs.items()
            if pack_id in packs
            and packs[pack_id].key not in self._gone
            and pack_id.hex() not in self._quarantined
            and use.needed_bytes
            and use.dead_share > share_max
            and not use.sessions & self._running
        ]
        candidates.sort(key=lambda pack_id: (-usage.packs[pack_id].dead_share, pack_id))
        chosen, left_bytes = [], self._settings.rewrite_bytes_max
        for pack_id in candidates:
            left_bytes -= packs[pack_id].size_bytes
            if left_bytes < 0:
                break
            chosen.append(pack_id)
        return chosen

    def _rows(self, wanted: Sequence[bytes]) -> dict[bytes, Places]:
        rows: dict[bytes, Places] = {}
        for _, segment in self._segments(None):
            for pack_id in segment.pack_sizes_bytes.keys() & set(wanted):
                rows[pack_id] = rows_of_pack(segment.places, pack_id)
        return rows

    def _segments(self, names: Set[str] | None) -> Iterator[tuple[str, Segment]]:
        """Those of these names, or all."""
        for key, segment in read_segments(self._tools.store, self._tools.records, names):
            if isinstance(segment, RepositoryError):
                raise CollectionRefused(f"an index segment cannot be read: {segment}")
            yield key, segment

    def _rewrite_segments(
        self, draft: Draft, usage: Usage, rewriter: Rewriter, *, dry_run: bool
    ) -> None:
        """Condemn segments that are mostly dead or small and many, after indexing the rest anew."""
        dead = {
            pack_id
            for pack_id in usage.packs
            if pack_key(pack_id) in draft.condemned or pack_key(pack_id) in self._gone
        }
        idle = [use for use in usage.segments if use.session not in self._running]
        stale = {
            use.key
            for use in idle
            if len(use.packs & dead) > len(use.packs) * _SEGMENT_DEAD_SHARE_MAX
        }
        stale |= _worth_merging(idle)
        if not stale:
            return
        if not dry_run:
            # What an interrupted run or a cancelled plan has merged already is not copied once more.
            elsewhere = {
                pack for use in usage.segments if use.key not in stale for pack in use.packs
            }
            kept = (
                (segment.places, segment.pack_sizes_bytes) for _, segment in self._segments(stale)
            )
            rewriter.copy_segments(kept, dead | elsewhere)
        listed = self._tools.store.list(SEGMENTS)
        draft.condemn([info for info in listed if info.key in stale])


def _worth_merging(segments: Sequence[SegmentUse]) -> set[str]:
    """Names of small segments, if they are many; no more of them than one run should copy."""
    small = [use for use in segments if use.row_count < SMALL_ROWS]
    if len(small) < SMALL_SEGMENTS_MIN:
        return set()
    chosen, left_rows = set(), _MERGED_ROWS_MAX
    for use in small:
        left_rows -= use.row_count
        if left_rows < 0:
            break
        chosen.add(use.key)
    return chosen
