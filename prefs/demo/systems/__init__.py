"""The eleven systems, as a clinic has them."""

from __future__ import annotations

from prefs.demo.systems import (
    activecampaign,
    google,
    hubspot,
    keap,
    mailchimp,
    messenger,
    pabau,
    pipedrive,
    timely,
    twilio,
    xero,
)

SYSTEMS = {
    one.SYSTEM.name: one.SYSTEM
    for one in (
        mailchimp,
        hubspot,
        twilio,
        activecampaign,
        keap,
        pipedrive,
        pabau,
        google,
        xero,
        timely,
        messenger,
    )
}
