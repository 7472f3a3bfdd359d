"""A process that takes slots of a worker and keeps them until it is killed.

Started by test_slots.py: `python slot_holder.py VM_ID NAME LIMIT COUNT`. Prints how many it got, as one
line, and then waits for a line on stdin. Without PREFECT_API_URL it has an embedded server of its own.
"""

from __future__ import annotations

import sys

from tasks import SharedSlots


def main() -> None:
    vm_id, name, limit, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    slots = SharedSlots()
    slots.open(vm_id, name, limit)
    held = [hold for hold in (slots.take(vm_id) for _ in range(count)) if hold is not None]
    print(len(held), dict(slots.free([vm_id]))[vm_id], flush=True)
    sys.stdin.readline()
    slots.close()


if __name__ == "__main__":
    main()
