"""The LM head of one answer: it knows the draft vocabulary, and the tokens of the text so far."""

import numpy as np

from eyas.drafters.target import AnswerHead
from eyas.engine.interfaces import TargetCall
from tiny import VOCAB


def known(head, features):
    [logits] = head.logits(features[-1:])
    return np.flatnonzero(np.isfinite(logits)).tolist()


def test_tokens_of_the_text_join_the_draft_vocabulary(runtime):
    [rows] = runtime.forward([TargetCall(runtime.new_cache(), np.array([5, 6]))])
    answer_head = AnswerHead(runtime, np.array([0, 4, 6]))
    first = answer_head.after([5, 6])
    assert known(first, rows.features) == [0, 4, 5, 6]
    assert answer_head.after([5, 6, 4, 5]) is first  # nothing new: nothing is packed again
    assert known(answer_head.after([5, 6, 4, 5, 9, 3, 9]), rows.features) == [0, 3, 4, 5, 6, 9]
    assert known(first, rows.features) == [0, 4, 5, 6]


def test_the_whole_vocabulary_stays_the_whole_one(runtime):
    [rows] = runtime.forward([TargetCall(runtime.new_cache(), np.array([5, 6]))])
    assert known(AnswerHead(runtime, None).after([5, 6]), rows.features) == list(range(VOCAB))
