"""A function of one's own: `--config-dir` runs this file first."""

from qlexp.problem.functions import Function, register

LOWEST = -2.903534027771177

register(
    Function(
        name="four_wells",
        title="Four Wells",
        formula="half*(x1^4 - square*x1^2 + linear*x1 + x2^4 - square*x2^2 + linear*x2)",
        evaluate=lambda x1, x2, c: (
            c["half"] * sum(x**4 - c["square"] * x**2 + c["linear"] * x for x in (x1, x2))
        ),
        coefficients={"half": 0.5, "square": 16.0, "linear": 5.0},
        standard_domain=((-5.0, 5.0), (-5.0, 5.0)),
        domain=((-4.0, 4.0), (-4.0, 4.0)),  # beyond, the fourth power hides the four wells
        minimum=-78.33233140754282,
        minimizers=((LOWEST, LOWEST),),
        period=None,
        source="Styblinski and Tang (1990), Neural Networks 3, 467-483",
    )
)
