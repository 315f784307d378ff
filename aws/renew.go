package aws

import (
	"context"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
)

// Renewed makes a call, and once more with fresh credentials where the service
// says that those it had have expired. The cache in front of the credentials
// goes by this machine's clock and by what it was told at the time, so only
// the service knows: the clock may be wrong, or a session may have been
// revoked.
func Renewed[T any](credentials sdk.CredentialsProvider, call func() (T, error)) (T, error) {
	out, err := call()
	cache, renewable := credentials.(interface{ Invalidate() })
	if err == nil || !renewable || !expired(err) {
		return out, err
	}
	cache.Invalidate()
	return call()
}

func expired(err error) bool {
	switch ErrorCode(err) {
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		return true
	}
	return false
}

// Credentials are fetched anew this long before they expire, so that a source
// that is away for some minutes is not noticed.
const (
	renewBefore = 5 * time.Minute
	renewJitter = 0.5
	// keptFor is how long credentials are used on without another look for
	// fresh ones, when their source is away.
	keptFor = time.Minute
)

func cached(p sdk.CredentialsProvider) *sdk.CredentialsCache {
	return sdk.NewCredentialsCache(p, func(o *sdk.CredentialsCacheOptions) {
		o.ExpiryWindow, o.ExpiryWindowJitterFrac = renewBefore, renewJitter
	})
}

// keeping goes on with the credentials it has while their source does not
// answer: whether they are still good is for the service to say. The SDK's own
// provider of an instance's role does so by itself.
type keeping struct{ sdk.CredentialsProvider }

// HandleFailToRefresh is the SDK's name for it.
func (keeping) HandleFailToRefresh(_ context.Context, had sdk.Credentials, err error) (sdk.Credentials, error) {
	if !had.HasKeys() || !had.CanExpire {
		return sdk.Credentials{}, err
	}
	had.Expires = time.Now().Add(renewBefore + keptFor)
	return had, nil
}
