"""Whether the trees in a model end: scikit-learn follows the node numbers in them without a look at where they lead.

skops judges the types in a file and not what is in them. A node of an allowed type that was altered makes a prediction read memory
of others, crash or never come back, perhaps only for rows that its author has in mind. Both kinds of tree number a node after
its parent, so a child with a higher number, of a node that exists, is all it takes to arrive at a leaf.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from batch.errors import ModelRefused
from batch.models.estimator import parts

LEAF = -1
BITSET_WORDS = 8
"""Of 32 bits: one bit for each of the 256 bins of a categorical feature."""


def check_trees(estimator: Any) -> None:
    """Raise `ModelRefused` where a tree in the estimator leads outside of itself, or tests a feature that there is not."""
    from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
    from sklearn.tree._tree import Tree

    for part in parts(estimator):
        known = getattr(part, "n_features_in_", None)
        for value in vars(part).values():
            if isinstance(value, Tree):
                features = value.n_features if known is None else min(known, value.n_features)
                _check(value.children_left, value.children_right, value.feature, value.children_left != LEAF, features)
        for grown in parts(getattr(part, "_predictors", ())):
            if isinstance(grown, TreePredictor):
                _check_grown(grown, known)


def _check_grown(tree: Any, features: Any) -> None:
    """One tree of a histogram-based gradient boosting; what is no table of nodes is refused by scikit-learn itself."""
    nodes, inner = tree.nodes, tree.nodes["is_leaf"] == 0
    _check(nodes["left"], nodes["right"], nodes["feature_idx"], inner, features)
    categorical = nodes["bitset_idx"][inner & (nodes["is_categorical"] != 0)].astype(np.int64)
    for bitsets in (tree.raw_left_cat_bitsets, tree.binned_left_cat_bitsets):
        if len(categorical) and (bitsets.shape[1:] != (BITSET_WORDS,) or categorical.max() >= len(bitsets)):
            raise _damaged("a node asks for categories that are not there")


def _check(left: Any, right: Any, feature: Any, inner: Any, features: Any) -> None:
    numbers = np.arange(len(left))
    if not len(left):
        raise _damaged("it has no node")
    for child in (left.astype(np.int64), right.astype(np.int64)):
        wrong = inner & ((child <= numbers) | (child >= len(left)))
        if wrong.any():
            node = int(np.argmax(wrong))
            raise _damaged(f"node {node} of {len(left)} leads to node {child[node]}")
    wrong = inner & ((feature < 0) | (feature >= features))
    if wrong.any():
        node = int(np.argmax(wrong))
        raise _damaged(f"node {node} tests feature {feature[node]} of {features} (0-based)")


def _damaged(what: str) -> ModelRefused:
    return ModelRefused(
        f"a tree in the model does not make sense: {what}",
        hint="the file is damaged or was altered; save the model again",
    )
