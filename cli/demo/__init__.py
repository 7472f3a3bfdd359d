"""`ahvault demo`: the main job on a simulated cluster, from the first backup to proven restores.

`command` reads like the runbook; the other files are where it happens (`site`), what the guests do
meanwhile (`guests`), how bytes are compared (`proofs`) and what is shown at the end (`summary`).
"""

from cli.demo.command import EXAMPLES, demo

__all__ = ["EXAMPLES", "demo"]
