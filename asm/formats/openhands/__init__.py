"""OpenHands: its conversations as folders of events, its trajectories, and the outputs of its evaluations.

Three kinds of records were written since 2024: actions and observations without ids (0.1x), the same with
ids, times and links (0.2x to 1.x), and the events of its SDK. All become the rows of `conversation.py`.
"""

from asm.formats.openhands.evaluation import READER as EVALUATION
from asm.formats.openhands.files import CONVERSATION, LOG, TRAJECTORY

READERS = (CONVERSATION, TRAJECTORY, EVALUATION, LOG)
