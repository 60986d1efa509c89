"""For nbconvert, see `make notebooks`: what a committed notebook keeps of its outputs."""

from nbconvert.preprocessors import Preprocessor

WIDGET = "application/vnd.jupyter.widget-view+json"


class CommittedOutputs(Preprocessor):
    """No widgets, and nothing from stderr."""

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type == "code":
            outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in outputs if WIDGET not in output.get("data", {})]
        return cell, resources
