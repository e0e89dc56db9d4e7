"""The networks that an analysis looks at, each with the facts about it in fields: published ones and the study's own.

Two jobs use the list: `encoders` compares what the networks compute, `kernels` what their SPConvs do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from igconv.data import weights
from igconv.errors import InputError
from igconv.models import published, run_weights
from igconv.models.super_resolver import SuperResolver, build_model
from igconv.study.labels import run_label
from igconv.study.run import Run
from igconv.study.runs import PUBLISHED

SCALES = (2, 3, 4)
MEMBER, OTHER_SEED, MULTI_SCALE, UNTRAINED = "member", "other seed", "multi-scale", "untrained"


@dataclass(frozen=True)
class Network:
    """One network of a family: networks of one architecture and one training set that differ in their scales.

    ``model`` is None for a published network whose encoder is not here; its SPConv kernels can still be read.
    """

    title: str  # for people, without the scale: "SPConv", "SMFANet+ DF2K", "IGConv"
    role: str  # member (of a family with a network per scale), other seed, multi-scale, untrained
    family: str
    architecture: str
    scales: tuple[int, ...]  # those it was trained for; of an untrained one, that of the LR images it is shown
    model: SuperResolver | None
    weights: str = ""  # name in the catalogue of published weights
    note: str = ""  # what tells it from a network of the same title and scale

    @property
    def name(self) -> str:
        """Unique in a list of networks: "SPConv x2", "SPConv x3 (seed 1)", "IGConv"."""
        scale = f" x{self.scale}" if self.scale and self.role != UNTRAINED else ""
        return f"{self.title}{scale}{self.note}"

    @property
    def scale(self) -> int:
        """The scale of a fixed-scale network, 0 where there are several."""
        return self.scales[0] if len(self.scales) == 1 else 0


def published_networks(profile: str, kernels_only: bool = False) -> tuple[list[Network], list[str]]:
    """Published fixed-scale families that a profile looks at, and a line for each that is not here.

    ``kernels_only``: also those whose encoder is not here, with None as the model.
    """
    networks, missing = [], []
    for family, names in published.triples(not kernels_only).items() if profile in PUBLISHED else ():
        try:
            networks += [_published(family, scale, name) for scale, name in names.items()]
        except InputError as error:
            missing.append(f"{family}: {error}")
    return networks, missing


def _published(family: str, scale: int, name: str) -> Network:
    architecture = weights.catalogue()[name].architecture
    encoder = published.ENCODERS.get(architecture)
    weights.find(name)  # raises where they are not here
    model = published.load(name) if encoder else None
    return Network(family, MEMBER, family, encoder or architecture, (scale,), model, name)


def own_networks(fixed: Iterable[Run], multi: Iterable[Run], seed: int) -> tuple[list[Network], list[str]]:
    """The study's trained runs as networks, and a line for each that is not trained.

    Fixed-scale runs of ``seed`` are the family of their encoder; those of another seed stand beside it.
    """
    networks, missing = [], []
    for run in (*fixed, *multi):
        role = MULTI_SCALE if len(run.scales) > 1 else MEMBER if run.seed == seed else OTHER_SEED
        note = "" if run.seed == seed else f" (seed {run.seed})"
        try:
            model = run_weights.load_run(run)
        except InputError as error:
            missing.append(str(error))
            continue
        label = run_label(run.upsampler)
        networks.append(Network(label, role, run.encoder, run.encoder, run.scales, model, note=note))
    return networks, missing


def untrained_networks(networks: Iterable[Network]) -> list[Network]:
    """Two random networks of every architecture that has a family, as controls. They are shown x2's and x3's images."""
    controls = []
    for architecture in dict.fromkeys(n.architecture for n in networks if n.role == MEMBER):
        for number, scale in ((1, 2), (2, 3)):
            torch.manual_seed(1000 + number)  # seeds that no run has
            model = build_model(architecture, "spconv", scales=(2,))
            title = f"untrained {architecture}"
            controls.append(Network(title, UNTRAINED, "", architecture, (scale,), model, note=f" {number}"))
    return controls


def families(networks: Iterable[Network]) -> dict[str, list[Network]]:
    """Family -> its members, in the order of the list."""
    members: dict[str, list[Network]] = {}
    for network in networks:
        if network.role == MEMBER:
            members.setdefault(network.family, []).append(network)
    return members


def with_role(networks: Iterable[Network], role: str) -> list[Network]:
    return [network for network in networks if network.role == role]


def is_complete(members: Sequence[Network]) -> bool:
    """Whether a family has a network for each of `SCALES`."""
    return sorted(network.scale for network in members) == list(SCALES)
