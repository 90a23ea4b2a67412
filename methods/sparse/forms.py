"""Which methods have an always-sparse form."""
from methods import at_init as pruned
from methods import dynamic, gse
from methods.beyond.mest import MEST, MESTS
from methods.beyond.srigl import SRigL
from methods.sparse import at_init, growth

FORMS = {dynamic.Static: growth.SparseStatic, dynamic.SET: growth.SparseSET, dynamic.RigL: growth.SparseRigL, SRigL: growth.SparseSRigL,
         MEST: growth.SparseMEST, MESTS: growth.SparseMESTS,
         gse.GSE: growth.SparseGSE, gse.GraBo: growth.SparseGraBo, gse.GraEst: growth.SparseGraEst,
         pruned.SNIP: at_init.SparseSNIP, pruned.GraSP: at_init.SparseGraSP, pruned.SynFlow: at_init.SparseSynFlow}


def of(method):
    """The always-sparse form of a method. Raises ValueError where it has none."""
    if method not in FORMS:
        raise ValueError(f"storage='sparse' is for {', '.join(m.name for m in FORMS)}; {method.name or method.__name__} needs dense weights")
    return FORMS[method]
