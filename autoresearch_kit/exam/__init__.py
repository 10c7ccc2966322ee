"""The evaluator's own exam: would its number tell a better candidate from luck, breakage and cheating?"""

from autoresearch_kit.exam.exam import Answer, Exam
from autoresearch_kit.exam.questions import QUESTIONS, ask

__all__ = ["QUESTIONS", "Answer", "Exam", "ask"]
