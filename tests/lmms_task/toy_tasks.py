"""What the local tasks of lmms-eval need besides lmms-eval's own POPE."""

from lmms_eval.tasks.pope.utils import pope_aggregate_accuracy, pope_process_results

__all__ = ["images", "pope_aggregate_accuracy", "pope_process_results", "question"]


def images(doc):
    return doc["images"]


def question(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
