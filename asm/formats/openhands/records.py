"""The records of OpenHands, each read as what it is."""

from __future__ import annotations

from typing import Any

from asm.errors import ValidationError
from asm.formats.openhands import actions, sdk_events
from asm.formats.openhands.conversation import Conversation


def add(conversation: Conversation, record: Any) -> None:
    """Read the next record. The first versions wrote pairs of an action and its observation.

    Raises ValidationError if it is none.
    """
    for each in record if isinstance(record, list) else [record]:
        if not isinstance(each, dict):
            raise ValidationError(f"expected an event, which is an object, not {type(each).__name__}")
        if each:
            id = conversation.begin_record(each)
            if isinstance(each.get("kind"), str):
                sdk_events.add(conversation, id, each)
            elif isinstance(each.get("action"), str):
                actions.add_action(conversation, id, each)
            elif isinstance(each.get("observation"), str):
                actions.add_observation(conversation, id, each)
            else:
                conversation.keep(id, "record", each)
