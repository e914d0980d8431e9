"""Balancing: how the tasks of a step share its gradient, for ``qs.fit(..., combine=...)``.

``qs.balancing.UPGrad()`` and the others are values of ``combine``; ``qs.balancing.named`` makes
them from their names. ``docs/balancing.md`` says what each reads, costs and needs.
"""

from quickstudy.balancing.aggregators import IMTLG as IMTLG
from quickstudy.balancing.aggregators import MGDA as MGDA
from quickstudy.balancing.aggregators import AlignedMTL as AlignedMTL
from quickstudy.balancing.aggregators import CAGrad as CAGrad
from quickstudy.balancing.aggregators import DualProj as DualProj
from quickstudy.balancing.aggregators import FairGrad as FairGrad
from quickstudy.balancing.aggregators import GradVac as GradVac
from quickstudy.balancing.aggregators import NashMTL as NashMTL
from quickstudy.balancing.aggregators import PCGrad as PCGrad
from quickstudy.balancing.aggregators import UPGrad as UPGrad
from quickstudy.balancing.combine import Mean as Mean
from quickstudy.balancing.combine import mean as mean
from quickstudy.balancing.gradnorm import GradNorm as GradNorm
from quickstudy.balancing.methods import METHODS as METHODS
from quickstudy.balancing.methods import Method as Method
from quickstudy.balancing.methods import named as named
from quickstudy.balancing.own import Constant as Constant
from quickstudy.balancing.own import Equal as Equal
from quickstudy.balancing.own import Uncertainty as Uncertainty
from quickstudy.balancing.scalarisers import DWA as DWA
from quickstudy.balancing.scalarisers import FAMO as FAMO
from quickstudy.balancing.scalarisers import IMTLL as IMTLL
from quickstudy.balancing.scalarisers import STCH as STCH
from quickstudy.balancing.scalarisers import UW as UW
from quickstudy.balancing.scalarisers import GeometricMean as GeometricMean
from quickstudy.balancing.scalarisers import RandomWeights as RandomWeights
from quickstudy.balancing.whole_gradients import ConFIG as ConFIG
from quickstudy.balancing.whole_gradients import ExcessMTL as ExcessMTL
from quickstudy.balancing.whole_gradients import GradDrop as GradDrop
