"""What --help lists is what the package has."""

from ablation.rows import ROWS
from benchmark import files, measure, random_sam, setting
from clouds_mmseg.bridges import cvat, fiftyone, label_studio
from clouds_mmseg.bridges.review import RANKS
from clouds_mmseg.conversion.layouts import KINDS
from clouds_mmseg.data_tools.prepare.write import RECODES
from clouds_mmseg.data_tools.verify import VERIFIED_SETS
from clouds_mmseg.datasets.driving import SETS
from clouds_mmseg.engine.hooks import feature_cache
from clouds_mmseg.evaluation import PROTOCOLS
from clouds_mmseg.generate.conditions import CONTROLS
from clouds_mmseg.generate.dense_prompts import KINDS as PROMPTS
from clouds_mmseg.generate.pipelines import MODES
from clouds_mmseg.generate.run import BACKENDS
from clouds_mmseg.predict import export
from clouds_mmseg.predict.network import OUTPUTS
from clouds_mmseg.predict.prediction import KINDS as RESULTS
from clouds_mmseg.utils.shared_work import LEASE_SECONDS
from clouds_mmseg_cli import names


def test_the_names_of_the_options_are_those_of_the_package():
    assert names.PREPARED_SETS == tuple(SETS)
    assert names.VERIFIED_SETS == VERIFIED_SETS
    assert names.RECODES == tuple(RECODES)
    assert names.IMAGE_BACKENDS == tuple(BACKENDS)
    assert names.PROTOCOLS == tuple(PROTOCOLS)
    assert names.IMAGE_MODES == MODES
    assert names.CONTROLS == CONTROLS
    assert names.PROMPT_KINDS == PROMPTS
    assert names.CHECKPOINT_KINDS == tuple(KINDS)
    assert names.PREDICTION_KINDS == tuple(RESULTS)
    assert names.REVIEW_TOOLS == (fiftyone.TOOL, cvat.TOOL, label_studio.TOOL)
    assert names.REVIEW_RANKS == RANKS
    assert names.EXPORT_FORMATS == tuple(export.FORMATS)
    assert names.EXPORT_PRECISIONS == tuple(export.LIMITS)
    assert names.EXPORT_OUTPUTS == OUTPUTS
    assert names.LEASE_SECONDS == LEASE_SECONDS
    assert names.ABLATION_ROWS == tuple(row.name for row in ROWS)
    assert names.BENCHMARK_SETS == tuple(files.SETS)
    assert names.benchmark_image_formats() == tuple(files.IMAGE_FORMATS)
    assert names.BENCHMARK_SAMS == tuple(random_sam.VARIANTS)
    assert names.BENCHMARK_CLOCKS == tuple(measure.CLOCKS)
    assert names.FEATURE_DTYPES == feature_cache.DTYPES
    assert names.BENCHMARK_DTYPES == tuple(setting.DTYPES)
