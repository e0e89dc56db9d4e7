"""One function per figure: tidy data frame -> matplotlib figure. `save` writes it as PNG and PDF."""

from igconv.reporting.figures.claims import claims
from igconv.reporting.figures.conversion import conversion_fit, conversion_heads, conversion_losses
from igconv.reporting.figures.correlation import alignment_bars, correlation_bars, kernel_patterns, pattern_continuity
from igconv.reporting.figures.efficiency import (
    cost_sweep,
    efficiency_bars,
    encoder_costs,
    generation_time,
    model_sweep,
    stored_parameters,
)
from igconv.reporting.figures.explored import explored, kernel_along_scale, sampling_offsets
from igconv.reporting.figures.initialisation import starts
from igconv.reporting.figures.results import (
    ablation,
    gap_by_budget,
    image_grid,
    psnr_gain,
    training_budget,
    training_curves,
)
from igconv.reporting.figures.similarity import cka_depth, cka_maps, transfer_loss
from igconv.reporting.figures.spectrum import band_differences, band_errors, band_learning, band_times
from igconv.reporting.figures.style import COLOURS, Picture, labelled, save, style
from igconv.reporting.figures.unseen import unseen_scales

__all__ = [
    "COLOURS", "Picture", "ablation", "alignment_bars", "band_differences", "band_errors", "band_learning",
    "band_times", "cka_depth", "cka_maps", "claims", "conversion_fit", "conversion_heads", "conversion_losses",
    "correlation_bars", "cost_sweep", "efficiency_bars", "encoder_costs", "explored", "gap_by_budget",
    "generation_time", "image_grid", "kernel_along_scale", "kernel_patterns", "labelled", "model_sweep",
    "pattern_continuity", "psnr_gain", "sampling_offsets", "save", "starts", "stored_parameters", "style",
    "training_budget", "training_curves", "transfer_loss", "unseen_scales",
]  # fmt: skip
