"""Who may connect."""

import pytest

from pneumoscope.core.errors import ConfigError
from pneumoscope_clinic.dicom.association import AllowList
from pneumoscope_clinic.settings import Peer


@pytest.mark.parametrize(
    ("address", "admitted"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True),
     ("10.0.0.1", False), ("0.0.0.0", False), ("fe80::1%eth0", False), ("::ffff:10.0.0.1", False)],
)  # fmt: skip
def test_without_peers_this_machine_alone_is_admitted_whatever_its_title(address, admitted):
    allowed = AllowList([])

    assert allowed.is_open
    assert allowed.admits_address(address) is admitted
    assert allowed.admits("ANYTHING", address) is admitted
    assert allowed.peer("ANYTHING", address) is None


@pytest.mark.parametrize(
    ("title", "address", "found"),
    [
        ("CR1", "10.1.2.3", "CR1"),
        ("CR1  ", "::ffff:10.1.2.3", "CR1"),
        ("CR1", "10.1.2.4", None),
        ("CR2", "10.2.200.200", "CR2"),
        ("CR2", "10.3.0.1", None),
        ("ANYWHERE", "192.0.2.1", "ANYWHERE"),
        ("cr1", "10.1.2.3", None),
        ("OTHER", "10.1.2.3", None),
        ("CR1", "127.0.0.1", None),
    ],
)
def test_title_and_address_must_both_match(title, address, found):
    allowed = AllowList(
        [
            Peer(ae_title="CR1", address="10.1.2.3"),
            Peer(ae_title="CR2", address="10.2.0.0/16"),
            Peer(ae_title="ANYWHERE"),
        ]
    )

    peer = allowed.peer(title, address)

    assert (None if peer is None else peer.ae_title) == found
    assert allowed.admits(title, address) is (found is not None)


def test_an_address_that_no_peer_has_is_turned_away_before_its_title_is_known():
    allowed = AllowList(
        [Peer(ae_title="CR1", address="10.1.2.3"), Peer(ae_title="V6", address="2001:db8::/32")]
    )

    assert not allowed.is_open
    assert [
        allowed.admits_address(text) for text in ("10.1.2.3", "10.1.2.4", "2001:db8::7", "127.0.0.1")
    ] == [
        True,
        False,
        True,
        False,
    ]


def test_a_peer_with_a_bad_address_is_named():
    with pytest.raises(ConfigError, match=r"dicom.peers, CR1: '10.0.0' is no IP address") as caught:
        AllowList([Peer(ae_title="CR1", address="10.0.0")])
    assert caught.value.exit_code == 2
