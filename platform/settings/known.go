package settings

import "slices"

// Known tells whether anything here reads the option. Elastic Beanstalk refuses options it does not know; here they are kept, and only warned of.
func Known(namespace, option string) bool {
	switch namespace {
	case NSEnvironment: // the application's properties: any name
		return true
	case NSCommand:
		return slices.Contains([]string{"Timeout", "IgnoreHealthCheck", "DeploymentPolicy"}, option)
	case NSApplication:
		return option == "Application Healthcheck URL"
	case NSProcess:
		return slices.Contains([]string{
			"HealthCheckPath", "HealthCheckInterval", "HealthCheckTimeout", "HealthyThresholdCount", "UnhealthyThresholdCount",
			"MatcherHTTPCode", "DeregistrationDelay",
		}, option)
	case NSHostmanager:
		return slices.Contains([]string{"HealthGateTimeout", "ReplaceableHooks"}, option)
	}
	return false
}
