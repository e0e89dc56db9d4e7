"""One function per figure: tidy data frame -> matplotlib figure. `save` writes it as PNG and PDF."""

from igconv.figures.correlation import correlation_bars, kernel_patterns
from igconv.figures.efficiency import efficiency_bars, generation_time
from igconv.figures.initialisation import starts
from igconv.figures.results import ablation, image_grid, psnr_gain, training_budget, training_curves
from igconv.figures.similarity import cka_depth, cka_maps
from igconv.figures.spectrum import band_differences, band_errors, band_learning, band_times
from igconv.figures.style import COLOURS, Picture, labelled, save, style
from igconv.figures.unseen import unseen_scales

__all__ = [
    "COLOURS", "Picture", "ablation", "band_differences", "band_errors", "band_learning", "band_times", "cka_depth",
    "cka_maps", "correlation_bars", "efficiency_bars", "generation_time", "image_grid", "kernel_patterns", "labelled",
    "psnr_gain", "save", "starts", "style", "training_budget", "training_curves", "unseen_scales",
]  # fmt: skip
