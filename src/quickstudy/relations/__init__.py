"""Which tasks help each other: affinities of tasks, clusters and groups of them, learnt weights.

affinity         what a task does for each other one: a matrix, with clusters and groups
gradients        gradient cosines and lookahead affinity, at given weights and over training
pairwise         the gain of every task from training with each other one
grouping         which tasks to train together, for at most k networks
learnt_weights   task weights by a bilevel step, for ``qs.fit(combine=…)``
"""

from quickstudy.relations.affinity import Affinity as Affinity
from quickstudy.relations.gradients import AffinityRecorder as AffinityRecorder
from quickstudy.relations.gradients import gradient_cosines as gradient_cosines
from quickstudy.relations.gradients import lookahead_affinity as lookahead_affinity
from quickstudy.relations.grouping import Grouping as Grouping
from quickstudy.relations.grouping import best_groups as best_groups
from quickstudy.relations.learnt_weights import LearntWeights as LearntWeights
from quickstudy.relations.learnt_weights import learn_weights as learn_weights
from quickstudy.relations.pairwise import pairwise_gains as pairwise_gains
from quickstudy.relations.pairwise import train_on as train_on
