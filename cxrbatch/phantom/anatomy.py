"""One invented patient: sizes and proportions drawn from a random stream, and the outlines they give, in cm."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np

from cxrbatch.phantom.grid import Points, smooth_closed
from cxrbatch.records import Float32

Side = Literal[-1, 1]
RIGHT: Side = -1  # the patient's right lies on the left of the image
LEFT: Side = 1
SIDES: tuple[Side, Side] = (RIGHT, LEFT)


class Stream(IntEnum):
    """The random streams of one phantom: what is drawn from one never shifts what another gives.

    Numbers are part of what a seed means: append, never renumber.
    """

    PATIENT = 0
    POSE = 1
    VESSELS = 2
    TEXTURE = 3
    EXPOSURE = 4
    NOISE = 5
    FINDINGS = 6
    CARDIOMEGALY = 10
    EFFUSION = 11
    PNEUMOTHORAX = 12
    NODULE = 13
    CONSOLIDATION = 14


def open_stream(seed: int, stream: Stream, take: int = 0) -> np.random.Generator:
    """Return the generator of one stream of the phantom `seed`; `take` numbers its exposures."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(stream), take))))


@dataclass(frozen=True, slots=True)
class Patient:
    """Sizes in cm, in the coordinates of `Grid`; densities relative to water."""

    sex: Literal["F", "M"]
    age: int
    thorax_half_width: float
    right_dome: float
    left_dome_drop: float
    recess: float
    widest_at: float
    apex_shape: float
    mediastinum: float
    mediastinum_shift: float
    aortic_knob: float
    heart_ratio: float
    heart_roundness: float
    spine_curve: float
    rib_spacing: float
    rib_head: float
    rib_drop: float
    rib_half_width: float
    bone: float
    wall: float
    body_depth: float
    breast: float
    lung_density: float
    vessels: float
    clavicle_drop: float
    clavicle_height: float
    scapula_out: float
    shoulder_height: float
    gas_bubble: float

    def lung_half_width(self, y: Float32 | Points) -> Float32:
        """Return the distance of the inner chest wall from the midline at height `y`, float32, 0 above the apex."""
        y = np.asarray(y, np.float32)
        above = np.clip((self.widest_at - y) / (self.widest_at + 0.9), 0.0, 1.0)
        below = np.clip(y - self.widest_at, 0.0, None)
        shape = np.sqrt(np.clip(1.0 - above**self.apex_shape, 0.0, None))
        return np.asarray(self.thorax_half_width * shape - 0.012 * below**2, np.float32)

    def dome(self, side: Side) -> float:
        """Return the height of a diaphragm dome."""
        return self.right_dome + (self.left_dome_drop if side == LEFT else 0.0)

    def costophrenic(self, side: Side) -> tuple[float, float]:
        """Return where the lung ends at the side: (x, y) of the costophrenic angle."""
        y = self.dome(side) + self.recess
        return side * (float(self.lung_half_width(np.array([y]))[0]) - 0.1), y

    def hilum(self, side: Side) -> tuple[float, float]:
        """Return where the vessels enter a lung; the left hilum lies a little higher."""
        y = 0.47 * self.right_dome - (0.8 if side == LEFT else 0.0)
        return side * (self.mediastinum + 1.2) + self.mediastinum_shift, y


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient: adults of either sex, slim to heavy, in shallow to deep inspiration."""
    female = rng.random() < 0.48
    habitus = float(rng.beta(2.0, 3.0))  # 0 slim, 1 heavy
    size = float(rng.normal(0.95 if female else 1.03, 0.035))
    right_dome = float(rng.uniform(19.5, 24.0)) * size - 1.5 * habitus
    uniform = rng.uniform
    return Patient(
        sex="F" if female else "M",
        age=int(rng.integers(20, 90)),
        thorax_half_width=float(uniform(13.0, 14.6)) * size,
        right_dome=right_dome,
        left_dome_drop=float(uniform(0.2, 1.8)),
        recess=float(uniform(3.0, 5.2)),
        widest_at=float(uniform(0.80, 0.95)) * right_dome,
        apex_shape=float(uniform(2.1, 2.7)),
        mediastinum=float(uniform(2.3, 3.1)) + 0.4 * habitus,
        mediastinum_shift=float(rng.normal(0.0, 0.35)),
        aortic_knob=float(uniform(0.3, 1.5)),
        heart_ratio=float(uniform(0.39, 0.47)),
        heart_roundness=float(uniform(0.0, 1.0)),
        spine_curve=float(rng.normal(0.0, 0.4)),
        rib_spacing=float(uniform(1.80, 2.10)) * size,
        rib_head=float(uniform(-2.2, -1.2)),
        rib_drop=float(uniform(11.0, 15.5)),
        rib_half_width=float(uniform(0.66, 0.84)),
        bone=float(uniform(0.7, 1.25)),
        wall=float(uniform(1.4, 2.4)) + 3.2 * habitus,
        body_depth=float(uniform(18.5, 21.5)) * size + 7.0 * habitus,
        breast=float(uniform(0.4, 2.6)) * (0.6 + habitus) if female else float(uniform(0.0, 0.5)),
        lung_density=float(uniform(0.24, 0.36)),
        vessels=float(uniform(0.75, 1.3)),
        clavicle_drop=float(uniform(-1.2, 1.0)),
        clavicle_height=float(uniform(0.4, 2.6)),
        scapula_out=float(uniform(0.0, 2.5)),
        shoulder_height=float(uniform(-1.5, 1.5)),
        gas_bubble=float(uniform(0.0, 1.0)) if rng.random() < 0.6 else 0.0,
    )


def mirrored(points: Points, side: Side) -> Points:
    """Return points given for the patient's left on the asked side."""
    return np.asarray(points * np.array([side, 1.0]))


def lung_outline(patient: Patient, side: Side) -> Points:
    """Return a lung's closed outline; medially it reaches to the midline, behind heart and mediastinum."""
    angle_x, angle_y = patient.costophrenic(side)
    angle_x = abs(angle_x)
    dome = patient.dome(side)
    wall_y = np.linspace(0.9, angle_y - 0.5, 14)
    wall = np.stack([patient.lung_half_width(wall_y), wall_y], axis=1)
    apex = np.array([[0.3, 5.0], [1.2, 2.4], [2.6, 0.7], [4.4, 0.0]])
    apex[3, 0] = 0.5 * (2.6 + wall[0, 0])
    peak = 0.48 * angle_x
    floor = min(dome + 0.1 * patient.recess, patient.right_dome + 0.6)  # the heart rests on it
    base = np.array(
        [
            [angle_x, angle_y],
            [angle_x - 1.0, angle_y - 1.35 * patient.recess / 4],
            [0.5 * (angle_x + peak) + 0.9, dome + 0.30 * patient.recess],
            [peak + 1.2, dome + 0.04 * patient.recess],
            [peak - 1.2, dome + 0.02],
            [0.5 * peak, floor],
            [0.3, floor - 1.5],
        ]
    )
    return mirrored(smooth_closed(np.concatenate([apex, wall, base])), side)


def heart_outline(patient: Patient, ratio: float) -> Points:
    """Return the heart's closed outline for a cardiothoracic ratio: its width over the widest inner thorax.

    About a third of it lies right of the midline, the apex points left and down; a larger heart grows
    more to the left, as a large left ventricle does.
    """
    width = ratio * 2 * patient.thorax_half_width
    left, right = 0.67 * width, 0.33 * width
    top = 0.42 * patient.right_dome
    bottom = patient.right_dome + 0.9
    height = bottom - top
    round_off = 0.04 * patient.heart_roundness
    shape = np.array(
        [
            [0.10, 0.00], [0.36 + round_off, 0.10], [0.54 + round_off, 0.24], [0.74 + round_off, 0.42],
            [0.90 + round_off / 2, 0.60], [0.995, 0.78], [0.985, 0.92], [0.86, 1.06], [0.55, 1.12],
            [0.1, 1.10], [-0.45, 1.04], [-0.84, 0.92], [-0.99, 0.68], [-0.97, 0.48], [-0.76, 0.26],
            [-0.45, 0.08],
        ]
    )  # fmt: skip
    x = np.where(shape[:, 0] > 0, shape[:, 0] * left, shape[:, 0] * right) + patient.mediastinum_shift
    return smooth_closed(np.stack([x, top + shape[:, 1] * height], axis=1))


def mediastinum_outline(patient: Patient) -> Points:
    """Return the great vessels above the heart: vena cava to the right, aortic knob and pulmonary trunk left."""
    half, knob = patient.mediastinum, patient.aortic_knob
    level = 0.30 * patient.right_dome
    low = patient.right_dome + 3.0
    left = np.array(
        [
            [half * 0.80, -6.0], [half * 0.72, level - 5.0], [half * 0.86, level - 2.4],
            [half * 0.98 + 0.6 * knob, level - 1.0], [half + knob, level + 0.2], [half + 0.55 * knob, level + 1.7],
            [half * 0.96, level + 2.6], [half + 0.5, level + 4.0], [half * 0.7, level + 6.5], [half * 0.4, low],
        ]
    )  # fmt: skip
    right = np.array(
        [
            [-half * 0.4, low], [-half * 0.7, level + 6.0], [-half * 0.95, level + 1.0],
            [-half * 0.88, level - 1.5], [-half * 0.66, level - 4.5], [-half * 0.85, -6.0],
        ]
    )  # fmt: skip
    return smooth_closed(np.concatenate([left, right]) + np.array([patient.mediastinum_shift, 0.0]))


def body_outlines(patient: Patient) -> list[Points]:
    """Return the closed outlines of trunk with neck, and of both upper arms, held away from the body."""
    side = patient.thorax_half_width + patient.wall
    up = patient.shoulder_height
    neck = 5.2 + 0.25 * patient.wall
    half = np.array(
        [
            [neck, -14.0], [neck, -7.0], [neck + 1.5, -5.0 + 0.3 * up], [neck + 5.5, -3.9 + 0.6 * up],
            [side + 1.5, -2.4 + up], [side + 4.6, 0.2 + up], [side + 5.5, 5.5], [side + 2.4, 9.0],
            [side - 0.2, 11.5], [side - 0.5, 15.0], [side - 0.1, 20.0], [side + 0.2, 27.0], [side + 0.5, 40.0],
        ]
    )  # fmt: skip
    trunk = np.concatenate([half, mirrored(half, RIGHT)[::-1]])
    arm = np.array(
        [
            [side + 1.0, -1.5 + up], [side + 4.6, 0.2 + up], [side + 9.0, 9.0], [side + 13.0, 24.0],
            [side + 6.5, 26.0], [side + 2.6, 14.0], [side - 0.5, 7.5],
        ]
    )  # fmt: skip
    return [smooth_closed(trunk), smooth_closed(arm), smooth_closed(mirrored(arm, RIGHT))]


def gas_bubble_outline(patient: Patient) -> Points:
    """Return the air in the stomach under the left dome: round above, a level below."""
    size = 1.2 + 2.2 * patient.gas_bubble
    x, y = 0.45 * patient.thorax_half_width, patient.dome(LEFT) + 1.2
    corners = np.array([[-1.1, 0.9], [-0.9, 0.3], [-0.2, 0.0], [0.6, 0.1], [1.0, 0.5], [1.05, 0.95], [0.0, 1.05]])
    return smooth_closed(corners * np.array([size, size * 0.9]) + np.array([x, y]))


def breast_outlines(patient: Patient) -> list[Points]:
    """Return the two breast shadows over the lower chest."""
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    x = 0.58 * patient.thorax_half_width + 5.6 * np.cos(angle)
    y = 0.78 * patient.right_dome + 5.4 * np.sin(angle) * (1.0 + 0.12 * np.sin(angle))
    outline = np.stack([x, y], axis=1)
    return [mirrored(outline, side) for side in SIDES]
