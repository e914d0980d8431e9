"""Networks of molecules: the graph network by loops over atoms, and what must not change it."""

from __future__ import annotations

import pytest
import torch

import quickstudy as qs
from quickstudy.backbones import GIN, Fingerprint, FingerprintMLP

pytest.importorskip("rdkit")

SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "C[N+](C)(C)CC#N", "[Na+].[Cl-]", "O"]


def inputs(texts: list[str] = SMILES) -> dict[str, torch.Tensor]:
    from quickstudy.datasets.smiles import molecule_inputs, read_smiles

    return molecule_inputs(read_smiles(texts, "test").molecules, graph=True)


def network(layers: int = 2) -> GIN:
    torch.manual_seed(0)
    net = GIN(8, layers).double()
    for each in net.rounds:
        torch.nn.init.normal_(each.eps)
    return net


def by_loops(net: GIN, texts: list[str]) -> torch.Tensor:
    """The docstring's equations, atom by atom, on RDKit's own molecules."""
    from rdkit import Chem

    rows = []
    for text in texts:
        molecule = Chem.MolFromSmiles(Chem.CanonSmiles(text))
        h = []
        for atom in molecule.GetAtoms():
            values = [
                atom.GetAtomicNum(), atom.GetDegree(), atom.GetFormalCharge() + 4,
                atom.GetTotalNumHs(), int(atom.GetIsAromatic()), int(atom.IsInRing()),
            ]  # fmt: skip
            parts = zip(net.properties, values, strict=True)
            h.append(sum(layer.weight[value] for layer, value in parts))
        seen = [_readout(h)]
        for each in net.rounds:
            new = []
            for atom in molecule.GetAtoms():
                total = (1 + each.eps) * h[atom.GetIdx()]
                for bond in atom.GetBonds():
                    kind = str(bond.GetBondType())
                    number = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "AROMATIC": 4}[kind]
                    sent = h[bond.GetOtherAtomIdx(atom.GetIdx())] + each.kinds.weight[number]
                    total = total + sent.relu()
                x = torch.nn.functional.layer_norm(total, (8,), each.norm.weight, each.norm.bias)
                new.append(h[atom.GetIdx()] + each.outer(each.inner(x).relu()))
            h = new
            seen.append(_readout(h))
        rows.append(net.last(torch.cat(seen)).relu())
    return torch.stack(rows)


def _readout(h: list[torch.Tensor]) -> torch.Tensor:
    atoms = torch.stack(h)
    return torch.cat([atoms.sum(0) / len(h) ** 0.5, atoms.amax(0)])


def test_features_are_those_of_loops_over_atoms_and_bonds():
    net = network()
    assert torch.allclose(net(inputs()), by_loops(net, SMILES), atol=1e-10)


def test_padding_and_other_molecules_change_nothing():
    net = network()
    alone = torch.cat([net(inputs([text])) for text in SMILES])
    assert torch.allclose(net(inputs()), alone, atol=1e-12)
    stacked = {name: leaf.unsqueeze(0) for name, leaf in inputs().items()}
    assert torch.allclose(torch.vmap(net)(stacked)[0], alone, atol=1e-12)  # vmap cannot trim


def test_the_order_of_atoms_changes_nothing():
    from rdkit import Chem

    from quickstudy.datasets.smiles import molecule_inputs

    molecule = Chem.MolFromSmiles(SMILES[0])
    order = list(reversed(range(molecule.GetNumAtoms())))
    both = molecule_inputs([molecule, Chem.RenumberAtoms(molecule, order)], graph=True)
    features = network()(both)
    assert torch.allclose(features[0], features[1], atol=1e-10)
    assert not torch.allclose(features[0], network()(inputs(["CC"]))[0], atol=1e-3)


def test_a_learner_keeps_the_contract_on_graphs():
    from quickstudy.testing import check_learner

    source = qs.tasks.Screening(inputs(), torch.tensor([[1.0], [1.0], [0.0], [0.0]]), ["a"], 2)
    kept = check_learner(qs.PrototypicalMahalanobis(GIN(8, 1)), source)
    assert {"vmap_equals_loop", "every_parameter_gets_a_gradient"} <= set(kept)


def test_fingerprints_are_read_from_a_dict_or_as_they_are():
    counts = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    assert torch.equal(Fingerprint(2)({"counts": counts}), counts)
    assert Fingerprint(2, binary=True)(counts).tolist() == [[0, 1], [1, 0]]
    net = FingerprintMLP(2, (3,)).eval()
    expected = net.layers[1](counts.log1p()).relu()
    assert torch.equal(net({"counts": counts}), expected)
    with pytest.raises(ValueError, match=r"read from inputs with counts \(n, bits\); found dict"):
        net({"atoms": counts})
    with pytest.raises(ValueError, match="found no atoms"):
        GIN(8)({"counts": counts})
