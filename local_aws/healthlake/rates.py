"""Call rates of HealthLake (a third party's copy of the quotas page, June 2026): calls a second, and burst.

The burst is not documented: twice the rate.
"""

from __future__ import annotations

_READS = ("DescribeFHIRImportJob", "ListFHIRImportJobs", "DescribeFHIRExportJob", "ListFHIRExportJobs")
_STORES = ("DescribeFHIRDatastore", "ListFHIRDatastores")
_REST = ("CreateResource", "ReadResource", "VersionReadResource", "UpdateResource", "DeleteResource", "GetHistory")

RATES: dict[str, tuple[float, float]] = {
    **dict.fromkeys((*_READS, *_STORES), (10, 20)),
    **dict.fromkeys(("CreateFHIRDatastore", "DeleteFHIRDatastore"), (1 / 60, 1)),
    **dict.fromkeys(_REST, (3_000, 6_000)),
    **dict.fromkeys(("SearchWithGet", "SearchWithPost"), (100, 200)),
    "StartFHIRImportJob": (25, 50),
    "StartFHIRExportJob": (1, 2),
}
