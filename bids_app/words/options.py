"""The options: what to work on, what changes the numbers, and how to run.

Each field is one option of the command line, one keyword of ``neurostorm_app.run`` and one
row of the documentation; its docstring is its help. `Science` changes numbers and so is part
of the key of every result, `Prediction` those of the predictions; `Selection` and `Execution`
change none.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  pydantic reads it
from pathlib import Path  # noqa: TC003  pydantic reads it
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field

from neurostorm_app.bids_app.words.flags import Flag, Frozen
from neurostorm_app.bids_app.words.values import (
    parse_memory,
    parse_moment,
    parse_spaces,
    parse_whole,
)
from neurostorm_app.errors import UsageError
from neurostorm_app.pipelines.denoise_strategies import choose_strategies

if TYPE_CHECKING:
    from neurostorm_app.pipelines.denoise_strategies import Strategy
    from neurostorm_app.pipelines.stage import OutputSpace

__all__ = ["Execution", "Flag", "Frozen", "Prediction", "Science", "Selection"]


class Selection(Frozen):
    """What to work on."""

    participant_label: Annotated[tuple[str, ...], Flag("LABEL")] = ()
    """Participants, with or without "sub-", or a file with one label a line. Default: all."""
    session_label: Annotated[tuple[str, ...], Flag("LABEL", ("--session-id",))] = ()
    """Sessions, or a file with one label a line. Default: all."""
    task_label: Annotated[tuple[str, ...], Flag("LABEL", ("-t", "--task-id"))] = ()
    """Tasks, or a file with one label a line. Default: all."""
    run_label: Annotated[tuple[str, ...], Flag("LABEL", ("--run-id",))] = ()
    """Runs, or a file with one label a line. Default: all."""
    echo_label: Annotated[tuple[str, ...], Flag("INDEX", ("--echo-idx",))] = ()
    """Echoes, or a file with one index a line; series without echoes are left out, and one echo
    alone is a run of its own. Default: all, combined."""
    bids_filter_file: Annotated[Path | None, Flag("FILE")] = None
    """JSON as for fMRIPrep: {"bold": {"task": "rest", "session": null}, "t1w": {...}}, and so
    "sbref" and "fmap"; null takes files without the entity, "*" files with any value of it."""
    bids_database_dir: Annotated[Path | None, Flag("DIR")] = None
    """Index of BIDS_DIR that PyBIDS made ("pybids layout BIDS_DIR DIR --no-validate"): files are
    taken from it, and no folder is listed. Default: the folders of the participants asked for."""
    anat_only: bool = False
    """Only the anatomy: no series, no models."""


class Science(Frozen):
    """What changes the numbers."""

    models: Annotated[tuple[str, ...], Field(min_length=1), Flag("NAME")] = ("connectome",)
    """Models to embed with; "neurostorm-tools weights list" shows them."""
    weights: Annotated[Mapping[str, Path], Flag("NAME=PATH")] = {}
    """Weights file of a model."""
    weights_dir: Annotated[Path | None, Flag("DIR")] = None
    """Folder where the weights files of the models lie."""
    atlas: Annotated[Mapping[str, Path], Flag("NAME=PATH")] = {}
    """Parcellation (integers, NIfTI) of a model that takes parcels, instead of its own."""
    derivatives: Annotated[Mapping[str, Path], Flag("[NAME=]PATH", ("-d", "--datasets"))] = {}
    """fMRIPrep-like folders; a run that is preprocessed there is not preprocessed again."""
    output_spaces: Annotated[tuple[str, ...], Field(min_length=1), Flag("SPACE[:res-N]")] = (
        "MNI152NLin6Asym:res-2",
        "MNI152NLin2009cAsym:res-2",
    )
    """Spaces of the preprocessed series, any number: TemplateFlow's names with a resolution index
    or res-native, T1w (anat), native (func, run, bold, boldref, sbref). A model is fed from its own
    space if it is among them, else from the first standard one."""
    output_level: Annotated[Literal["minimal", "resampling", "full"], Flag(None, ("--level",))] = (
        "full"
    )
    """minimal: transforms, references, masks and fields, from which the rest can be made later;
    resampling: also references and masks in each space; full: also series and confounds. Models
    run at full."""
    ignore: Annotated[
        tuple[Literal["fieldmaps", "slicetiming", "sbref", "fmap-jacobian"], ...],
        Flag("fieldmaps|slicetiming|sbref|fmap-jacobian"),
    ] = ()
    """What is not used though it is there."""
    slice_time_ref: Annotated[
        float, BeforeValidator(parse_moment), Field(ge=0, le=1), Flag("X|start|middle")
    ] = 0.5
    """Moment that slices are brought to: 0 (start) is the first slice of a volume, 1 the last."""
    use_syn_sdc: bool = False
    """Tell susceptibility distortion from the anatomy where a run has no field map."""
    fallback_total_readout_time: Annotated[float | None, Field(gt=0), Flag("SECONDS")] = None
    """Total readout time of images whose sidecars do not tell it."""
    me_t2s_fit_method: Literal["loglin", "curvefit"] = "loglin"
    """How T2* is fitted to several echoes."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of the networks; tf32 needs a CUDA device."""
    clip_policy: Literal["dense", "upstream-eval"] = "dense"
    """Which windows of a run are embedded: all of it, or one window every 400 volumes, as the
    released fine-tuned NeuroSTORM files were evaluated."""
    max_windows: Annotated[int | None, Field(gt=0), Flag("N")] = None
    """Most windows of a run that are embedded: those from which the others can best be told, found
    without any training; such as share volumes only where no others are left. Models that take
    single volumes or whole runs (mind-vis, connectome) are left as they are. Default: all."""
    parity: Literal["none", "upstream"] = "none"
    """upstream: prepare volumes by upstream's own arithmetic (header TR, no affine, 8 bits), for
    comparison only."""
    parcel_statistics: Annotated[Mapping[str, Path], Flag("NAME=PATH")] = {}
    """Statistics of the parcels of your cohort, for a model that scales by them; made by
    "neurostorm-tools statistics". Default: those of the run."""
    input_gain: Annotated[float, Field(gt=0), Flag("X")] = 1.0
    """Factor on the scaled series of parcels before the network."""
    dummy_scans: Annotated[int | None, Field(ge=0), Flag("N", ("--dummy-volumes",))] = None
    """Initial volumes that are not in steady state. Default: found in the series."""
    bold2anat_dof: Annotated[
        Literal[6, 9, 12], BeforeValidator(parse_whole), Flag("6|9|12", ("--bold2t1w-dof",))
    ] = 6
    """Degrees of freedom of the BOLD-to-T1w registration."""
    bold2anat_init: Annotated[
        Literal["auto", "t1w", "header"], Flag("auto|t1w|header", ("--bold2t1w-init",))
    ] = "auto"
    """Where that registration starts: from the images, or from what the headers say."""
    return_all_components: bool = False
    """Keep all components of CompCor instead of those up to half of the variance."""
    fd_spike_threshold: Annotated[float, Field(gt=0), Flag("MM")] = 0.5
    """Framewise displacement in mm above which a volume is a motion outlier."""
    dvars_spike_threshold: Annotated[float, Field(gt=0), Flag("X")] = 1.5
    """Standardised DVARS above which a volume is a motion outlier."""
    denoise: Annotated[tuple[str, ...], Flag("STRATEGY")] = ()
    """Also write each run without noise, its parcel series and their correlations, by simple,
    scrubbing, acompcor, 24P, 36P, 36P+scrub, none, or one of the first three with +gsr. The first
    strategy gets XCP-D's names; those of further ones carry theirs. Thresholds of censoring are
    those of --fd-spike-threshold and --dvars-spike-threshold."""
    denoise_high_pass: Annotated[float | None, Field(ge=0), Flag("HZ")] = None
    """High-pass of --denoise, 0 for none. Default: the strategy's, 0.01 Hz of 24P, 36P and none;
    cosines below 1/128 Hz of the others."""
    denoise_low_pass: Annotated[float | None, Field(ge=0), Flag("HZ")] = None
    """Low-pass of --denoise, 0 for none. Default: the strategy's, 0.08 Hz of 24P, 36P and none."""
    denoise_smoothing: Annotated[float, Field(ge=0), Flag("MM")] = 0.0
    """Width (FWHM) of a Gaussian; a further denoised series is smoothed by it."""
    describe: bool = False
    """Also describe the connectivity of each run in numbers and words, by the networks that a table
    beside the label image of a model (--atlas) names. No weights."""
    reference_descriptors: Annotated[Path | None, Flag("PATH")] = None
    """Cohort that --describe compares with: a table of "neurostorm-tools describe-reference", or a
    folder of them. Default: nothing is compared."""
    components: Annotated[Path | None, Flag("DIR")] = None
    """Time courses of components of the runs (<run>_..._mixing.tsv) to describe too."""
    random_seed: Annotated[int, Field(ge=0), Flag("N")] = 42
    """Seed of everything that draws random numbers."""

    @property
    def spaces(self) -> tuple[OutputSpace, ...]:
        """Spaces of the preprocessed series."""
        return parse_spaces(self.output_spaces)

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """What to denoise by."""
        return choose_strategies(
            self.denoise,
            high_pass=self.denoise_high_pass,
            low_pass=self.denoise_low_pass,
            fd=self.fd_spike_threshold,
            std_dvars=self.dvars_spike_threshold,
        )

    @property
    def has_standard(self) -> bool:
        """Whether there is a space that models can be fed from."""
        return any(space.is_standard for space in self.spaces)


class Prediction(Frozen):
    """What to predict at the group level, how it is evaluated, and what else it makes."""

    target: Annotated[tuple[str, ...], Flag("NAME")] = ()
    """Columns to predict from the embeddings, by commas or spaces: of participants.tsv, of
    phenotype/*.tsv or of sessions.tsv. FILE:NAME, such as sessions:age, where two files have it.
    task is the task of each run, as its name says; runs:task where a file has such a column."""
    participants_file: Annotated[Path | None, Flag("FILE")] = None
    """Table with the column participant_id, instead of participants.tsv of BIDS_DIR."""
    group_column: Annotated[str | None, Flag("NAME")] = None
    """Column, such as family or site, whose members are never on both sides of a split. Default:
    each participant is a group."""
    site_column: Annotated[str | None, Flag("NAME")] = None
    """Column of the site, a confound, and what --harmonise takes off. Default: site, if there is
    such a column."""
    covariates: Annotated[tuple[str, ...], Flag("NAME")] = ()
    """What is taken off the embeddings for a second evaluation: motion, site, or any column; none
    for no confounds at all. Default: motion, site, age and sex, as far as they are there."""
    harmonise: Literal["none", "combat"] = "none"
    """combat: bring the embeddings of sites together, fitted inside the folds."""
    classifier: Literal["ridge", "logistic"] = "ridge"
    """What tells classes apart; values are always predicted by ridge regression."""
    baselines: Annotated[tuple[Literal["bnt", "gcn"], ...], Flag("bnt|gcn")] = ()
    """Networks trained on the connectomes inside the folds, for comparison: Brain Network
    Transformer, graph convolution. They take long."""
    folds: Annotated[int, Field(ge=2, le=20), Flag("N")] = 5
    """Folds of the cross-validation."""
    repeats: Annotated[int, Field(ge=1, le=100), Flag("N")] = 5
    """Times that the folds are drawn anew."""
    permutations: Annotated[int, Field(ge=0, le=100_000), Flag("N")] = 1000
    """Permutations of the test of no effect; 0 leaves it out."""
    confidence: Annotated[float, Field(ge=0.5, lt=1), Flag("X")] = 0.9
    """Coverage of all intervals."""
    no_controls: bool = False
    """Leave out the comparison of each network with itself untrained, for which runs are embedded
    with random weights now, from the preprocessed series, where that was not done before."""
    save_heads: bool = False
    """Also fit a head on all participants, for neurostorm-tools predict on new ones."""
    index_kind: Literal["auto", "exact", "ivf", "hnsw", "pq"] = "auto"
    """How the index of each model finds similar runs: all are compared, or lists (ivf), a graph
    (hnsw: quick to ask, slow to build), or lists of codes (pq: small, less exact). auto: exact up
    to 200,000 runs, then ivf, and pq where whole vectors do not fit beside the table in --mem."""


class Execution(Frozen):
    """How to run; nothing here changes a number."""

    work_dir: Annotated[Path | None, Flag("DIR", ("-w",))] = None
    """Scratch folder, kept. Default: a folder in OUTPUT_DIR that is removed on success."""
    clean_workdir: bool = False
    """Remove what was put into --work-dir on success."""
    nprocs: Annotated[
        int | None,
        Field(gt=0),
        Flag("N", ("--n-procs", "--nthreads", "--n-cpus", "--cpus")),
    ] = None
    """Processes at a time. Default: the cores this job may use."""
    omp_nthreads: Annotated[int | None, Field(gt=0), Flag("N", ("--ants-nthreads",))] = None
    """Threads of one process. Default: the cores this job may use."""
    mem: Annotated[str | None, Flag("SIZE", ("--mem-mb", "--memory"))] = None
    """Memory to stay under, such as 8G or 8000M; a bare number is MB."""
    mem_gb: Annotated[float | None, Field(gt=0), Flag("GB")] = None
    """The same in GB."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$"), Flag("DEVICE")] = "auto"
    """Where the networks run: auto, cpu, cuda or cuda:N."""
    batch_size: Annotated[int | None, Field(gt=0), Flag("N")] = None
    """Windows that go through a network together. Default: what memory allows."""
    dry_run: bool = False
    """Print the plan, run by run, and stop."""
    reports_only: bool = False
    """Write the pages again from what is in OUTPUT_DIR, and do nothing else."""
    report_viewer: Literal["on", "off"] = "on"
    """off: pages of participants without a viewer of volumes, 2 MB smaller a run. Pages that are
    there are changed by --reports-only."""
    skip_bids_validation: Annotated[bool, Flag(None, ("--skip-bids-validator",))] = False
    """Do not validate BIDS_DIR."""
    shard: Annotated[str | None, Field(pattern=r"^[1-9]\d{0,5}/[1-9]\d{0,5}$"), Flag("I/N")] = None
    """Group level: collect only part I of N of the participants, as one of N jobs; a call without
    it joins the parts."""
    stop_on_first_crash: bool = False
    """Stop at the first run that fails instead of finishing the others; runs are preprocessed one
    by one then."""
    privacy: Literal["standard", "strict"] = "standard"
    """strict: no absolute paths, dates or faces in any output."""
    executor: Annotated[
        str,
        Field(pattern=r"^(local|dask|dask:slurm|dask:([a-z]+://)?[^\s/]+:\d+)$"),
        Flag("local|dask|dask:ADDRESS|dask:slurm"),
    ] = "local"
    """Who does the work: this process, or workers of Dask: on this machine, of a scheduler, or jobs
    of SLURM."""
    verbose: Annotated[int, Flag(None, ("-v",))] = 0
    """Say more: on a terminal also a line a stage, elsewhere also what is of use in a search for a
    mistake; twice also messages of other packages."""
    quiet: Annotated[bool, Flag(None, ("-q",))] = False
    """Say nothing but warnings and what failed. The log file in OUTPUT_DIR/logs says all."""

    @property
    def memory(self) -> int | None:
        """Memory to stay under in bytes."""
        return parse_memory(self.mem, self.mem_gb)

    @property
    def loudness(self) -> int:
        """How much is said: -1 for quiet, then the number of times that more was asked for."""
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose were both given", fix="give one of them")
        return -1 if self.quiet else self.verbose

    @property
    def part(self) -> tuple[int, int] | None:
        """Which part of how many to collect at the group level, the first is 1; None for all."""
        if self.shard is None:
            return None
        part, n_parts = map(int, self.shard.split("/"))
        if part > n_parts:
            raise UsageError(
                f"--shard {self.shard}: there is no part {part} of {n_parts}",
                fix=f"write 1/{n_parts} to {n_parts}/{n_parts}",
            )
        return part, n_parts
