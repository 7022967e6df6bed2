"""Two rendered person re-ID domains in Market-1501 layout, for tests, demos and benchmarks without any download."""

from mlt.data.synthetic.render import RenderResult, render_domain
from mlt.data.synthetic.spec import DOMAINS, DomainSpec

__all__ = ["DOMAINS", "DomainSpec", "RenderResult", "render_domain"]
