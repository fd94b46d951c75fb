package custody

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// IAM is what a rotation needs of AWS Identity and Access Management. Every call is
// signed by the material that it is given. An error with an answer of IAM's is a
// [*broker.Error] with IAM's code. Package awsiam has one.
type IAM interface {
	// CreateKey makes a new key of the user, and says when by IAM's clock. After an
	// error that passes there may be a new key all the same.
	CreateKey(ctx context.Context, m broker.Material, user string) (key broker.Material, created time.Time, err error)
	ListKeys(ctx context.Context, m broker.Material, user string) ([]KeyState, error)
	// LastUsed is the zero time for a key that was never used.
	LastUsed(ctx context.Context, m broker.Material, keyID string) (time.Time, error)
	SetActive(ctx context.Context, m broker.Material, user, keyID string, active bool) error
	DeleteKey(ctx context.Context, m broker.Material, user, keyID string) error
	// WhoAmI says whose the material is. user is "" where it is no IAM user's.
	WhoAmI(ctx context.Context, m broker.Material) (account, user string, err error)
	// Now is the time on IAM's clock, as far as its answers told it; else on this host's.
	Now() time.Time
}

// ErrOldInUse is in the error of a rotation whose old key somebody made to work again,
// or did until a moment ago, which [Rotation.Hint] says how to. It is not deleted; the
// next call looks again. It goes on until a person acts, so tell of it once.
var ErrOldInUse = errors.New("the old key is not deleted")

// KeyState is an access key as IAM lists it. It is an alias of a plain struct, so that
// an [IAM] need not import this package.
type KeyState = struct {
	KeyID   string
	Active  bool
	Created time.Time // by IAM's clock
}

// Steps of a rotation, in their order. A step is done when what it did would survive
// a crash.
const (
	StepClear      = "clear"      // delete the new key that an earlier try made and could not keep
	StepMark       = "mark"       // note that a key is about to be made
	StepCreate     = "create"     // make it; its secret is in memory alone
	StepSeal       = "seal"       // put it in custody, as the next key
	StepVerify     = "verify"     // see that it works, and is the same user's
	StepSwitch     = "switch"     // it is what signs from now on
	StepDeactivate = "deactivate" // the old key works no more, and could still be made to
	StepDelete     = "delete"     // the old key is gone

	StepUndo = "undo" // delete a new key that does not work; the old one stays
)

// RotateOptions say how to rotate.
type RotateOptions struct {
	// Grace is how long the old key stays at IAM, inactive, before it is deleted; 0
	// deletes it at once. It counts from the deactivation.
	Grace  time.Duration
	DryRun bool // only say what would be done

	// Sign signs the calls to IAM, such as a session with MFA; nil for the key itself:
	// the old one until the switch, and then the new one.
	Sign *broker.Material

	Step func(step string) // is told of each step before it begins; nil for nobody
	Done func(step string) // is told of each step that is done; nil for nobody
}

// Rotation is how far a rotation came.
type Rotation struct {
	User        string    // of the key, "" unknown
	KeyID       string    // what signs now
	Old         string    // what it replaced, and IAM still has; "" for none
	DeleteAfter time.Time // when Old may be deleted; zero while it is active
	Steps       []string  // that were done, or, of a dry run, would be
}

// Hint is what can be done while IAM still has the old key, in one line; "" for none.
func (r Rotation) Hint() string {
	if r.Old == "" {
		return ""
	}
	return fmt.Sprintf("until it is deleted, the old key can be made to work again, and then it stays: aws iam update-access-key --user-name %s --access-key-id %s --status Active", word(r.User), word(r.Old))
}

const (
	rotationLockFile = "keys.rotation.lock"

	// patience is how long IAM and STS may take to know of what IAM did: they are
	// eventually consistent (IAM user guide, "Troubleshoot IAM").
	patience  = time.Minute
	firstWait = 500 * time.Millisecond
	longWait  = 8 * time.Second

	// A new key must be accepted so many times in a row, so long apart: not all of STS
	// learns of it at once.
	acceptances   = 3
	acceptanceGap = time.Second

	// unbroken is for a step that nobody's hanging up ends: two calls of the client, or a
	// keyring that has to be waited for.
	unbroken = 30 * time.Second

	// A key is taken for the one that a mark is of where IAM made it so long before the
	// mark, since IAM has many clocks and tells whole seconds, or so long after, for the
	// mark to be written and for the call.
	markEarly = 10 * time.Second
	markLate  = time.Minute

	skew = 15 * time.Minute // AWS takes no signature of a clock that is off by more

	// lag is for how long IAM may go on taking a key that was made inactive.
	lag = 5 * time.Minute
)

// Rotate replaces a key by a new one of the same IAM user: it makes one, keeps it as
// the next, sees that it works, uses it, makes the old one inactive, and deletes that
// after o.Grace. Where it stopped, for an error or a crash, the next Rotate goes on.
// It ends a rotation that was begun before it begins another: called while the old
// key waits for its end, it does nothing, and after that it only deletes it.
//
// At any time the key in custody works, and the user has two keys at most. IAM allows
// no third: a user who has two before is refused, in words that say which is unused.
//
// Who gives up waiting, by ctx, ends it between two steps or in a call that changes
// nothing. Only the steps create, seal and switch come to their end.
//
// What a crash between IAM's answer and custody left behind is a key whose secret
// nobody has. It is deleted only where it is the only key of the user beside the one in
// custody, was made by IAM's clock in the minute after the mark says that one was about
// to be, is active, and was never used. Otherwise the error names the key to look at.
// That leaves one case of a key that is not ours: somebody made it by hand in that very
// minute, has not used it, and the call that was cut off made none.
//
// The old key is not deleted while it works: somebody made it to. Nor is it within
// o.Grace of its last use after the deactivation. The error has [ErrOldInUse] then.
//
// The Rotation says how far it came, beside an error too. Errors are those of
// [Kept.Get] and of the IAM; those that pass are worth another call.
func (k *Kept) Rotate(ctx context.Context, name string, iam IAM, o RotateOptions) (Rotation, error) {
	if o.Grace < 0 {
		return Rotation{}, fault("the time that the old key stays before it is deleted is negative: give 0 or more")
	}
	if o.DryRun {
		return (&rotating{kept: k, name: name, iam: iam, o: o}).dry(ctx)
	}
	release, err := k.lockRotation()
	if err != nil {
		return Rotation{}, err
	}
	defer release()
	return (&rotating{kept: k, name: name, iam: iam, o: o}).run(ctx)
}

// Tidy deletes the old key of a rotation when its time has come, and returns its id;
// "" where there was nothing to do, or beside an error. That has [ErrOldInUse] where the
// key works again. It is for a daemon to call now and then: where
// nothing is due it reads the list of keys and no more, so custody may be locked.
func (k *Kept) Tidy(ctx context.Context, name string, iam IAM, now time.Time) (deleted string, err error) {
	due := func(old string, inactive bool, after time.Time) bool {
		return old != "" && inactive && !now.Before(after)
	}
	if i, ok := k.Info(name); !ok || !due(i.Old, i.OldInactive, i.DeleteAfter) {
		return "", nil
	}
	release, err := k.lockRotation()
	if err != nil {
		return "", err
	}
	defer release()
	r, err := k.Get(ctx, name)
	if err != nil || r.Old == nil || !due(r.Old.KeyID, r.Old.Inactive, r.Old.DeleteAfter) {
		return "", err
	}
	if err := (&rotating{kept: k, name: name, iam: iam}).delete(ctx, r, now); err != nil {
		return "", err
	}
	return r.Old.KeyID, nil
}

// lockRotation keeps two rotations apart, here or in another process: each would take
// the other's new key for a leftover. It also keeps a key from being taken away while
// one runs.
func (k *Kept) lockRotation() (release func(), err error) {
	if err := securefile.MakeFolder(k.dir); err != nil {
		return nil, fault("state folder: %v", err)
	}
	release, held, err := securefile.Lock(filepath.Join(k.dir, rotationLockFile))
	switch {
	case err != nil:
		return nil, fault("state folder: %v", err)
	case !held:
		return nil, &broker.Error{Kind: broker.KindUnavailable, Own: true, Public: "a rotation of a key is under way: try again when it is done"}
	}
	return release, nil
}

// progress is what a run knows beside what rests.
type progress struct {
	made     *Pair     // by create, and not sealed yet
	marked   bool      // the mark is this run's
	earlier  time.Time // the mark of a run that did not come to its end; zero for none
	verified string    // id of the next key, when it was seen to work
	ended    bool      // a rotation came to its end in this run
}

// seen is a listed key, and what is known of its use. That is asked for keys that are
// not in custody only.
type seen struct {
	KeyState
	used    time.Time // zero: never
	unasked error     // why that is not known: who signs may not ask
}

// next is what a rotation does in a state of things: the record, the keys that IAM
// lists, and what this run did. "" is nothing. The keys are looked at only where
// begins says so.
func next(r Record, keys []seen, p progress, now time.Time) (step string, err error) {
	switch {
	case p.made != nil:
		return StepSeal, nil
	case r.Next != nil && p.verified == r.Next.KeyID:
		return StepSwitch, nil
	case r.Next != nil:
		return StepVerify, nil
	case r.Old != nil && !r.Old.Inactive:
		return StepDeactivate, nil
	case r.Old != nil && !now.Before(r.Old.DeleteAfter):
		return StepDelete, nil
	case r.Old != nil, p.ended:
		return "", nil
	}
	var others []seen
	for _, key := range keys {
		if key.KeyID != r.Current.KeyID {
			others = append(others, key)
		}
	}
	switch {
	case len(others) == len(keys):
		return "", stranger(r)
	case len(others) == 1 && leftover(others[0], p.earlier):
		return StepClear, nil
	case len(others) > 0:
		return "", crowded(r, others, p)
	case !p.marked:
		return StepMark, nil
	}
	return StepCreate, nil
}

// begins reports whether next would look at the keys.
func begins(r Record, p progress) bool {
	return r.Next == nil && r.Old == nil && p.made == nil && !p.ended
}

// leftover reports whether a key that is not in custody is what an earlier run made
// and could not keep. It was not there when that run made its mark: the mark is made
// only where the key in custody is the user's only one.
func leftover(key seen, mark time.Time) bool {
	after := key.Created.Sub(mark)
	return !mark.IsZero() && key.Active && after >= -markEarly && after <= markLate && key.unasked == nil && key.used.IsZero()
}

// stranger is the error for a key in custody that its user no longer has.
func stranger(r Record) error {
	return fault("%s is none of the access keys of %s any more: run stsbroker keys add --replace with a key of the user", r.Current.KeyID, r.User)
}

// crowded refuses where there is no room for a new key, or it is not sure whose a key is.
func crowded(r Record, others []seen, p progress) error {
	var say []string
	for _, key := range others {
		state := "active"
		if !key.Active {
			state = "inactive"
		}
		used := "never used"
		switch {
		case key.unasked != nil:
			used = "and IAM does not say when it was last used (iam:GetAccessKeyLastUsed)"
		case !key.used.IsZero():
			used = "last used " + key.used.UTC().Format(time.DateOnly)
		}
		say = append(say, fmt.Sprintf("%s (%s, made %s, %s)", key.KeyID, state, key.Created.UTC().Format(time.DateOnly), used))
	}
	why := fmt.Sprintf("a user has two access keys at most, and %s has %s beside %s, which is in custody", r.User, strings.Join(say, " and "), r.Current.KeyID)
	if !p.earlier.IsZero() {
		why += fmt.Sprintf("; a rotation that was cut off at %s may have made it, but that is not certain: look at it", p.earlier.UTC().Format(time.RFC3339))
	}
	return fault("%s; if nobody needs it, run: aws iam delete-access-key --user-name %s --access-key-id %s; then rotate again", why, word(r.User), word(others[0].KeyID))
}

// rotating is one run.
type rotating struct {
	progress
	kept *Kept
	name string
	iam  IAM
	o    RotateOptions

	account, user string // whose the key is, when STS said so in this run
	gone          string // id of a key that was deleted in this run; a list may still have it
	room          backoff
	steps         []string
}

// errAgain is a step that was not done, and is to be decided on anew.
var errAgain = errors.New("not done")

func (w *rotating) run(ctx context.Context) (Rotation, error) {
	r, err := w.kept.Get(ctx, w.name)
	w.earlier = r.Creating
	for err == nil {
		if ctx.Err() != nil && w.made == nil {
			err = context.Cause(ctx)
			break
		}
		var keys []seen
		if begins(r, w.progress) {
			if keys, err = w.look(ctx, &r); err != nil {
				break
			}
		}
		var step string
		if step, err = next(r, keys, w.progress, time.Now()); step == "" || err != nil {
			break
		}
		tell(w.o.Step, step)
		// Who hangs up must not lose what IAM made: from the call to custody nobody can.
		within, end := ctx, context.CancelFunc(func() {})
		if step == StepCreate || step == StepSeal || step == StepSwitch {
			within, end = context.WithTimeout(context.WithoutCancel(ctx), unbroken)
		}
		switch err = w.do(within, step, r, keys); {
		case err == nil:
			w.steps = append(w.steps, step)
			tell(w.o.Done, step)
		case errors.Is(err, errAgain):
			err = nil
		}
		if now, bad := w.kept.Get(within, w.name); bad == nil {
			r = now
		} else if err == nil {
			err = bad
		}
		end()
	}
	return w.result(r), err
}

// dry is run without a step.
func (w *rotating) dry(ctx context.Context) (Rotation, error) {
	r, err := w.kept.Get(ctx, w.name)
	if err != nil {
		return Rotation{}, err
	}
	w.earlier = r.Creating
	var keys []seen
	if begins(r, w.progress) {
		if keys, err = w.look(ctx, &r); err != nil {
			return w.result(r), err
		}
	}
	step, err := next(r, keys, w.progress, time.Now())
	if step == StepDelete {
		if _, err := w.vanished(ctx, r, time.Now()); err != nil {
			return w.result(r), err
		}
	}
	all := []string{StepClear, StepMark, StepCreate, StepSeal, StepVerify, StepSwitch, StepDeactivate, StepDelete}
	if i := slices.Index(all, step); i >= 0 {
		w.steps = all[i:]
	}
	return w.result(r), err
}

func (w *rotating) result(r Record) Rotation {
	out := Rotation{User: r.User, KeyID: r.Current.KeyID, Steps: w.steps}
	if r.Old != nil {
		out.Old, out.DeleteAfter = r.Old.KeyID, r.Old.DeleteAfter
	}
	return out
}

func tell(whom func(string), step string) {
	if whom != nil {
		whom(step)
	}
}

// signer is what signs calls to IAM.
func (w *rotating) signer(r Record) broker.Material {
	if w.o.Sign != nil {
		return *w.o.Sign
	}
	return r.Current.Material()
}

// look asks whose the key is, completes r by that, and lists the user's keys.
func (w *rotating) look(ctx context.Context, r *Record) ([]seen, error) {
	if w.user == "" {
		account, user, err := w.iam.WhoAmI(ctx, r.Current.Material())
		switch {
		case err != nil:
			return nil, err
		case user == "":
			return nil, fault("%s is no key of an IAM user, and only those are rotated here", r.Current.KeyID)
		case r.Account != "" && r.Account != account || r.User != "" && r.User != user:
			return nil, fault("%s belongs to %s of account %s, and was added as a key of %s of account %s: run stsbroker keys remove %s and add it again", r.Current.KeyID, user, account, r.User, r.Account, w.name)
		}
		if w.o.Sign != nil {
			switch by, _, err := w.iam.WhoAmI(ctx, *w.o.Sign); {
			case err != nil:
				return nil, err
			case by != account:
				return nil, fault("what signs this rotation belongs to account %s, and %s to account %s: sign with a profile of that account", by, r.Current.KeyID, account)
			}
		}
		w.account, w.user = account, user
	}
	r.Account, r.User = w.account, w.user
	listed, err := w.list(ctx, *r)
	if err != nil {
		return nil, err
	}
	var known []seen
	for _, state := range listed {
		key := seen{KeyState: state}
		if key.KeyID == w.gone {
			continue
		}
		if key.KeyID != r.Current.KeyID {
			key.used, err = w.iam.LastUsed(ctx, w.signer(*r), key.KeyID)
			if err != nil && broker.AsError(err).Kind.Passes() {
				return nil, err
			}
			if isGone(err) {
				continue // the list is behind
			}
			key.unasked = err
		}
		known = append(known, key)
	}
	return known, nil
}

// list returns the user's keys, as soon as the one in custody is among them; without
// it where patience ends.
func (w *rotating) list(ctx context.Context, r Record) (keys []KeyState, err error) {
	err = patiently(ctx, &backoff{}, w.young(r), func() error {
		keys, err = w.iam.ListKeys(ctx, w.signer(r), r.User)
		switch {
		case err != nil:
			return err
		case slices.ContainsFunc(keys, func(k KeyState) bool { return !plausible(k.KeyID) }):
			return &broker.Error{Kind: broker.KindUnavailable, Public: "IAM lists an access key whose id is not one: check which endpoint answers"}
		case !slices.ContainsFunc(keys, func(k KeyState) bool { return k.KeyID == r.Current.KeyID }):
			return errStale
		}
		return nil
	})
	if errors.Is(err, errStale) {
		err = nil
	}
	return keys, err
}

// state is a key of the user as IAM lists it, nil where it does not. IAM finds no key
// of a user who was renamed, which says nothing: only a list that has the key in
// custody counts.
func (w *rotating) state(ctx context.Context, r Record, keyID string) (*KeyState, error) {
	keys, err := w.list(ctx, r)
	find := func(id string) int { return slices.IndexFunc(keys, func(k KeyState) bool { return k.KeyID == id }) }
	switch {
	case isGone(err):
		return nil, fault("IAM has no user %s any more; if it has another name now, it may still have the key %s: delete that there, then run stsbroker keys remove %s and add the key again", r.User, keyID, w.name)
	case err != nil:
		return nil, err
	case find(r.Current.KeyID) < 0:
		return nil, stranger(r)
	case find(keyID) < 0:
		return nil, nil
	}
	return &keys[find(keyID)], nil
}

func (w *rotating) do(ctx context.Context, step string, r Record, keys []seen) error {
	switch step {
	case StepClear:
		return w.clear(ctx, r, keys)
	case StepMark:
		return w.mark(ctx, r)
	case StepCreate:
		return w.create(ctx, r)
	case StepSeal:
		return w.seal(ctx)
	case StepVerify:
		return w.verify(ctx, r)
	case StepSwitch:
		return w.change(ctx)
	case StepDeactivate:
		return w.deactivate(ctx, r)
	default:
		return w.delete(ctx, r, time.Now())
	}
}

func (w *rotating) clear(ctx context.Context, r Record, keys []seen) error {
	for _, key := range keys {
		if key.KeyID == r.Current.KeyID {
			continue
		}
		if err := w.iam.DeleteKey(ctx, w.signer(r), w.user, key.KeyID); err != nil && !isGone(err) {
			return err
		}
		// One mark, one key: another that shows up is not ours.
		w.gone, w.earlier = key.KeyID, time.Time{}
	}
	return nil
}

func (w *rotating) mark(ctx context.Context, looked Record) error {
	err := w.kept.Update(ctx, w.name, func(r *Record) error {
		if r.Current.KeyID != looked.Current.KeyID {
			return errChanged()
		}
		r.Creating, r.Account, r.User = w.iam.Now(), w.account, w.user
		return nil
	})
	w.marked = err == nil
	return err
}

func (w *rotating) create(ctx context.Context, r Record) error {
	key, created, err := w.iam.CreateKey(ctx, w.signer(r), w.user)
	if err == nil {
		made := Pair{KeyID: key.AccessKeyID, Secret: key.SecretAccessKey, Created: created}
		// An id is printed, so it must be one, and not the secret in its place.
		if made.check("the answer") != nil || strings.HasPrefix(made.Secret.Reveal(), "AKIA") && broker.ValidKeyID(made.Secret.Reveal()) {
			return &broker.Error{Kind: broker.KindUnavailable, Public: "IAM made a key, and its answer has no access key id and secret that can be one: check which endpoint answers; rotate again, which deletes that key"}
		}
		w.made = &made
		return nil
	}
	if broker.AsError(err).Kind.Passes() {
		return err
	}
	// This call made no key, so nobody is to look for one of its time.
	w.marked = false
	bad := w.kept.Update(ctx, w.name, func(r *Record) error { r.Creating = w.earlier; return nil })
	if bad == nil && isFull(err) && w.room.wait(ctx) {
		// The list had room: it is behind by a key that was made or deleted a moment ago.
		return errAgain
	}
	return err
}

func (w *rotating) seal(ctx context.Context) error {
	made := *w.made
	w.made = nil
	err := w.kept.Update(ctx, w.name, func(r *Record) error {
		if r.Next != nil || r.Old != nil {
			return errChanged()
		}
		r.Next, r.Creating = &made, time.Time{}
		return nil
	})
	if err == nil {
		return nil
	}
	if r, bad := w.kept.Get(ctx, w.name); bad == nil && r.Next != nil && r.Next.KeyID == made.KeyID {
		return err // it is kept: only the list of keys was not written
	}
	e := *broker.AsError(err)
	e.Public = fmt.Sprintf("the new key %s could not be put in custody (%s), so it is of no use; rotate again, which deletes it", made.KeyID, e.Public)
	return &e
}

// verify sees that STS accepts the next key as the same user's. A key that is not
// accepted is deleted again.
func (w *rotating) verify(ctx context.Context, r Record) error {
	var wait backoff
	for accepted := 0; accepted < acceptances; {
		if accepted > 0 && !sleep(ctx, acceptanceGap) {
			return ctx.Err()
		}
		accepted++
		var account, user string
		err := patiently(ctx, &wait, true, func() (err error) {
			account, user, err = w.iam.WhoAmI(ctx, r.Next.Material())
			if isUnknown(err) {
				accepted = 1 // if it comes to that
			}
			return err
		})
		switch {
		case err != nil && (ctx.Err() != nil || broker.AsError(err).Kind != broker.KindDenied):
			return err
		case err != nil:
			return w.undo(ctx, r, broker.AsError(err).Public)
		case account != r.Account || user != r.User:
			return w.undo(ctx, r, fmt.Sprintf("it belongs to %q of account %q, and not to %s of account %s", clip(user), clip(account), r.User, r.Account))
		}
	}
	w.verified = r.Next.KeyID
	return nil
}

// undo deletes the next key, and says why.
func (w *rotating) undo(ctx context.Context, r Record, why string) error {
	tell(w.o.Step, StepUndo)
	refused := func(then string) error {
		return &broker.Error{Kind: broker.KindDenied, Public: fmt.Sprintf("the new key %s is not used: %s; %s, and %s goes on being used", r.Next.KeyID, why, then, r.Current.KeyID)}
	}
	err := w.iam.DeleteKey(ctx, w.signer(r), r.User, r.Next.KeyID)
	if isGone(err) {
		err = w.confirm(ctx, r, r.Next.KeyID, err)
	}
	if err != nil {
		return refused(fmt.Sprintf("it could not be deleted (%s): rotate again", broker.AsError(err).Public))
	}
	err = w.kept.Update(ctx, w.name, func(now *Record) error {
		if now.Next != nil && now.Next.KeyID == r.Next.KeyID {
			now.Next = nil
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.steps = append(w.steps, StepUndo)
	tell(w.o.Done, StepUndo)
	return refused("it was deleted again")
}

func (w *rotating) change(ctx context.Context) error {
	return w.kept.Update(ctx, w.name, func(r *Record) error {
		if r.Next == nil || r.Next.KeyID != w.verified {
			return errChanged()
		}
		r.Current, r.Next, r.Old = *r.Next, nil, &OldKey{KeyID: r.Current.KeyID}
		return nil
	})
}

func (w *rotating) deactivate(ctx context.Context, r Record) error {
	// The key that signs may be so new that IAM does not know it, though STS does.
	err := patiently(ctx, &backoff{}, w.young(r), func() error {
		return w.iam.SetActive(ctx, w.signer(r), r.User, r.Old.KeyID, false)
	})
	gone := isGone(err)
	if gone {
		err = w.confirm(ctx, r, r.Old.KeyID, err)
	}
	if err != nil {
		return err
	}
	err = w.kept.Update(ctx, w.name, func(r *Record) error {
		if r.Old == nil {
			return nil
		}
		now := time.Now()
		r.Old.Inactive, r.Old.Since, r.Old.DeleteAfter = true, now, now.Add(w.o.Grace)
		if gone {
			r.Old = nil
		}
		return nil
	})
	w.ended = w.ended || err == nil && gone
	return err
}

func (w *rotating) delete(ctx context.Context, r Record, now time.Time) error {
	gone, err := w.vanished(ctx, r, now)
	if err == nil && !gone {
		err = patiently(ctx, &backoff{}, w.young(r), func() error {
			return w.iam.DeleteKey(ctx, w.signer(r), r.User, r.Old.KeyID)
		})
	}
	if err != nil && !isGone(err) { // the user was there a moment ago
		return err
	}
	err = w.kept.Update(ctx, w.name, func(now *Record) error {
		if now.Old != nil && now.Old.KeyID == r.Old.KeyID {
			now.Old = nil
		}
		return nil
	})
	w.ended = err == nil
	return err
}

// vanished reports whether IAM has the old key no more. Where it has it, and somebody
// made it to work again, the error is [ErrOldInUse].
func (w *rotating) vanished(ctx context.Context, r Record, now time.Time) (bool, error) {
	old := *r.Old
	var wait backoff
	for {
		key, err := w.state(ctx, r, old.KeyID)
		if err != nil || key == nil {
			return err == nil, err
		}
		if !key.Active {
			break
		}
		if now.Sub(old.Since) < patience && wait.wait(ctx) { // the list may be behind
			continue
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		return false, oldInUse("the old key %s is not deleted, since somebody made it active again; when nobody needs it any more, run: aws iam update-access-key --user-name %s --access-key-id %s --status Inactive; then rotate again", old.KeyID, word(r.User), word(old.KeyID))
	}
	used, err := w.iam.LastUsed(ctx, w.signer(r), old.KeyID)
	if err != nil && broker.AsError(err).Kind.Passes() {
		return false, err
	}
	used = used.Add(time.Since(w.iam.Now())) // by this host's clock; of the year 1 where who signs may not ask, and then that it is inactive has to do
	if stay := used.Add(old.DeleteAfter.Sub(old.Since)); !old.Since.IsZero() && used.After(old.Since.Add(lag)) && now.Before(stay) {
		return false, oldInUse("the old key %s is not deleted before %s, since it was used at %s, after the rotation had deactivated it; if nobody needs it, run: aws iam delete-access-key --user-name %s --access-key-id %s",
			old.KeyID, stay.UTC().Format(time.RFC3339), used.UTC().Format(time.RFC3339), word(r.User), word(old.KeyID))
	}
	return false, nil
}

func oldInUse(format string, args ...any) error {
	return &broker.Error{Kind: broker.KindConfig, Public: fmt.Sprintf(format, args...), Cause: ErrOldInUse}
}

// confirm returns nil where IAM, which said in err that there is no such key, has the
// user still and does not list the key.
func (w *rotating) confirm(ctx context.Context, r Record, keyID string, err error) error {
	key, bad := w.state(ctx, r, keyID)
	switch {
	case bad != nil:
		return bad
	case key != nil:
		return err
	}
	return nil
}

func errChanged() error {
	return fault("the record of the key was changed by somebody else: rotate again")
}

// errStale is a list that lacks what must be in it.
var errStale = errors.New("the list is behind")

// young reports whether calls are signed by a key that IAM may not know yet.
func (w *rotating) young(r Record) bool {
	return w.o.Sign == nil && time.Since(r.Current.Created).Abs() < skew
}

// patiently makes a call until IAM and STS know what it is about, or patience ends.
// young says that what signs may be unknown for its youth. The error is the last one.
func patiently(ctx context.Context, b *backoff, young bool, call func() error) error {
	for {
		err := call()
		behind := young && isUnknown(err) || errors.Is(err, errStale)
		if !behind || !b.wait(ctx) {
			return err
		}
	}
}

// backoff is how long to wait for what is to come. The zero value has not waited yet.
type backoff struct {
	since time.Time
	next  time.Duration
}

// wait waits, longer each time. It reports whether to go on.
func (b *backoff) wait(ctx context.Context) bool {
	if b.since.IsZero() {
		b.since, b.next = time.Now(), firstWait
	}
	left := patience - time.Since(b.since)
	if left <= 0 {
		return false
	}
	d := min(b.next, left)
	b.next = min(2*b.next, longWait)
	return sleep(ctx, d)
}

// sleep reports whether the time passed; ctx may end before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// code is IAM's or STS's own, "" where it did not answer.
func code(err error) string {
	if e, ok := errors.AsType[*broker.Error](err); ok {
		return e.Code
	}
	return ""
}

// isUnknown is what AWS says to a key that it does not know, or not yet. Stores that
// speak STS have S3's code for it.
func isUnknown(err error) bool {
	return slices.Contains([]string{"InvalidClientTokenId", "InvalidAccessKeyId", "UnrecognizedClientException"}, code(err))
}

func isGone(err error) bool {
	return slices.Contains([]string{"NoSuchEntity", "NoSuchEntityException"}, code(err))
}

func isFull(err error) bool {
	return slices.Contains([]string{"LimitExceeded", "LimitExceededException"}, code(err))
}

// word quotes what is to be pasted into a shell. Names and ids as IAM allows them
// come out as they are.
func word(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+=,.@-", r)
	}
	if s != "" && strings.TrimFunc(s, plain) == "" && !strings.HasPrefix(s, "-") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
