"""A conversation that every framework can have, and what each page of it shows.

A user asks when the museum opens, and shows a picture. The model thinks, calls a tool that fails, calls it
again, and answers.
"""

from __future__ import annotations

import base64
import re

QUESTION = "When does the **museum** open?"
THOUGHT = "The table of hours has it."
ANSWER = "At `ten`, and *not* on Mondays."
FAILED, FOUND = "Nowhere", "Bergen"
"""The inputs of the two calls of the tool."""

ERROR, HOURS = "There is no such city.", "ten to six"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
ENCODED = base64.b64encode(PNG).decode()
ASKED = [
    {"type": "text", "text": QUESTION},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ENCODED}},
]
"""The question and the picture as Anthropic's blocks."""

IMAGE = f"data:image/png;base64,{ENCODED}"


def hours(city: str) -> str:
    """The hours of the museum in a city."""
    if city == FAILED:
        raise ValueError(ERROR)
    return HOURS


def check_conversation(page: str, *, error: str = ERROR, is_told: bool = True) -> None:
    """A page shows who said what, what the model thought, and each call with its result.

    `error` is what the framework makes of the error. `is_told` is whether it says that the call has failed,
    and not only that the result has these words.
    """
    asked, answered = re.findall(r'<article class="item (message .*?)</article>', page, re.DOTALL)
    assert asked.startswith("message person")
    assert "<p>When does the <strong>museum</strong> open?</p>" in asked
    assert f'<img src="{IMAGE}"' in asked
    assert answered.startswith("message agent")
    assert "<p>At <code>ten</code>, and <em>not</em> on Mondays.</p>" in answered
    (thought,) = re.findall(r'<details class="fold thinking">(.*?)</details>', page, re.DOTALL)
    assert THOUGHT in thought
    failed, found = re.findall(r'<details class="fold call(.*?)</details>', page, re.DOTALL)
    for call, city, output in ((failed, FAILED, error), (found, FOUND, HOURS)):
        about, _, result = call.partition('<div class="result')
        assert re.search(rf'<span class="name">hours</span><span class="about">city: {city}<', about)
        assert re.search(rf'<pre class="code" tabindex="0">(\w+: )?{output}', result)
    assert [each.startswith(" failed") for each in (failed, found)] == [is_told, False]
    # Nothing else is folded: no result without its call, and no JSON but that a run begins with these tools.
    notes = re.findall(r'<details class="fold note"><summary><span class="name">([^<]*)', page)
    assert set(notes) <= {"run started"}
