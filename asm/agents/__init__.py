"""Running an agent: a model is called turn by turn, and every step is stored before it is shown.

`SessionManager` and `AsyncSessionManager` make runs. An adapter calls a provider's model, as `protocol`
describes it; there is a module for each provider. The package uses the public methods of a store, and only
the command imports it.
"""

from asm.agents.limits import Limits
from asm.agents.outcomes import RunFailed
from asm.agents.protocol import CAPABILITIES, Adapter, AdapterEvent, Request
from asm.agents.results import RunResult
from asm.agents.transcript import Transcript

__all__ = [
    "CAPABILITIES",
    "Adapter",
    "AdapterEvent",
    "Limits",
    "Request",
    "RunFailed",
    "RunResult",
    "Transcript",
]
