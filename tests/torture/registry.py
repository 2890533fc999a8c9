"""All campaigns by name."""

from __future__ import annotations

from tests.torture.campaign import Campaign
from tests.torture.flips import Flips
from tests.torture.generated import Archives, Arguments, Bounds, Forged, Settings
from tests.torture.kills import Kills
from tests.torture.misplaced import Misplaced
from tests.torture.payloads import Payloads
from tests.torture.readers import Readers

CAMPAIGNS: dict[str, type[Campaign]] = {
    campaign.name: campaign
    for campaign in (
        Kills,
        Readers,
        Flips,
        Misplaced,
        Payloads,
        Forged,
        Bounds,
        Archives,
        Settings,
        Arguments,
    )
}
