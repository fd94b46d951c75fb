package main

import (
	"fmt"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/broker/custody"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// seed makes the codes of an MFA device from its sealed seed: one source for all that
// use the device, since no code is good twice. The seed beside the key that it
// protects would be one factor, so the identity that opens it must not be the one that
// opens the key. What cannot be known now, because custody is locked or the stick with
// the seed is not there, is looked at again before each code.
func (d *draft) seed(c SeedConfig) awssts.Source {
	if err := d.oneFactor(c); err != nil {
		d.note(d.cfg.File, d.line, SeverityError, "profile %s: mfa_seed: %v", d.out.Name, err)
	}
	if s, ok := d.seeds[c]; ok {
		return s
	}
	s := custody.SeedFile(c.File, func(sealed []byte) ([]byte, error) {
		fault := func(err error) error {
			return &broker.Error{Kind: broker.KindConfig, Own: true, Public: "the seed of the MFA device: " + err.Error()}
		}
		id, err := seedIdentity(c)
		if err != nil {
			return nil, fault(err)
		}
		if d.opensState(id) {
			return nil, fault(errOneFactor(c))
		}
		text, err := id.Open(sealed, seal.IdentityLimit)
		if err != nil {
			return nil, fault(fmt.Errorf("%s: %w", c.File, err))
		}
		return text, nil
	})
	d.seeds[c] = s
	return s
}

func seedIdentity(c SeedConfig) (seal.Identity, error) {
	raw, err := securefile.Read(c.IdentityFile, seal.IdentityLimit)
	if err != nil {
		return seal.Identity{}, err
	}
	id, err := seal.ParseIdentity(raw)
	if err != nil {
		return id, fmt.Errorf("%s: %w", c.IdentityFile, err)
	}
	return id, nil
}

// oneFactor refuses a seed that whoever has the keys has too, as far as that can be
// seen now.
func (d *draft) oneFactor(c SeedConfig) error {
	if c.IdentityFile == d.getenv(varIdentityFile) {
		return errOneFactor(c)
	}
	if id, err := seedIdentity(c); err == nil && d.opensState(id) {
		return errOneFactor(c)
	}
	return nil
}

func errOneFactor(c SeedConfig) error {
	return fmt.Errorf("%s is the identity that opens sealed state, with the key in it: key and seed under one identity are one factor, and not two; seal the seed for another identity, and keep that elsewhere", c.IdentityFile)
}
