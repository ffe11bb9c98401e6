module stranger

go 1.25
