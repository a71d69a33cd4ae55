"""Every method of the benchmark, by the name that a run gives it."""

from benchmarks.learning.methods.emcl import Emcl
from benchmarks.learning.methods.ewc import Ewc
from benchmarks.learning.methods.fine_tuning import FineTuning
from benchmarks.learning.methods.infold import Infold
from benchmarks.learning.methods.k_adapter import KAdapter
from benchmarks.learning.methods.lora import Lora, LoraOnViews
from benchmarks.learning.methods.memit import AlphaEdit, Memit
from benchmarks.learning.methods.method import Knobs, Method
from benchmarks.learning.methods.mix_review import MixReview
from benchmarks.learning.methods.recadam import RecAdam
from benchmarks.learning.methods.retrieval import InContext, Retrieval, Untouched
from benchmarks.learning.methods.rho1 import Rho1
from benchmarks.learning.methods.train_attention import TrainAttention
from benchmarks.learning.methods.ultraedit import UltraEdit

__all__ = ["CONTROLS", "METHODS", "RIVALS", "Knobs", "Method"]

RIVALS: dict[str, type[Method]] = {
    "fine-tuning": FineTuning,
    "lora": Lora,
    "lora-views": LoraOnViews,
    "rho-1": Rho1,
    "mix-review": MixReview,
    "recadam": RecAdam,
    "k-adapter": KAdapter,
    "ewc": Ewc,
    "emcl": Emcl,
    "train-attention": TrainAttention,
    "memit": Memit,
    "alphaedit": AlphaEdit,
    "ultraedit": UltraEdit,
}
"""They have no access to the documents when they are asked."""
CONTROLS: dict[str, type[Method]] = {"base": Untouched, "in-context": InContext, "retrieval": Retrieval}
"""The floor, the ceiling, and what infold does without."""
METHODS: dict[str, type[Method]] = {"infold": Infold, **RIVALS, **CONTROLS}
