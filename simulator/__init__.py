"""A Nutanix of our own: the REST API of Prism Central and Prism Element over a real data plane.

For tests, demonstrations and fault drills, in a process (`Simulator`) or as a program (`serve`). Shares no code
with the product, so that a misreading of the API cannot pass every test. `docs/simulator.md` says how to use it.
"""

from simulator.clock import Clock
from simulator.crowd import Crowd
from simulator.errors import GuestError, MissingToolError, SimulatorError, StateInUseError
from simulator.faults import FaultPlan, load_plan
from simulator.filesystems import inspect_image
from simulator.settings import Settings
from simulator.simulation import Simulator, Worker, serve
from simulator.story import Story

__all__ = [
    "Clock",
    "Crowd",
    "FaultPlan",
    "GuestError",
    "MissingToolError",
    "Settings",
    "Simulator",
    "SimulatorError",
    "StateInUseError",
    "Story",
    "Worker",
    "inspect_image",
    "load_plan",
    "serve",
]
